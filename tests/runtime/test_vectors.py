"""The steps do what docs/reference/preprocessing.md says, vector by vector."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec_bundle.manifest import TensorSpec
from edgec_runtime import InputError, OutputError
from edgec_runtime.processing import Postprocessing, Preprocessing
from edgec_runtime.steps import OPS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
VECTORS = json.loads((REFERENCE / "preprocessing_vectors.json").read_text())["vectors"]


def array(raw: dict[str, Any]) -> np.ndarray:
    def number(value: Any) -> Any:
        return [number(item) for item in value] if isinstance(value, list) else float(value)

    values = raw["values"]
    return np.array(number(values) if raw["dtype"].startswith("float") else values, raw["dtype"])


def spec(value: Any, name: str = "x") -> TensorSpec:
    if isinstance(value, list):
        return TensorSpec(name, "bytes", (-1,))
    return TensorSpec(name, value.dtype.name, (-1,) * value.ndim)


def run(vector: dict[str, Any]) -> dict[str, np.ndarray]:
    if vector["stage"] == "preprocessing":
        raw = vector["input"]
        value = [base64.b64decode(f) for f in raw["files"]] if "files" in raw else array(raw)
        return Preprocessing.parse([spec(value)], vector["steps"]).run({"x": value})
    outputs = [spec(array(vector.get("output", vector["input"])))]
    if "indices" in vector:
        outputs.append(spec(array(vector["indices"]), "best"))
    return Postprocessing.parse(outputs, vector["steps"]).run({"x": array(vector["input"])})


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    if "refused" in vector:
        with pytest.raises((InputError, OutputError)) as caught:
            run(vector)
        assert vector["refused"] in str(caught.value)
        return

    got = run(vector)

    expected = {"x": vector["output"]} | (
        {"best": vector["indices"]} if "indices" in vector else {}
    )
    for name, raw in expected.items():
        want = array(raw)
        assert (got[name].dtype, got[name].shape) == (want.dtype, want.shape)
        if "tolerance" in vector:
            np.testing.assert_allclose(got[name], want, rtol=0, atol=vector["tolerance"])
        else:
            np.testing.assert_array_equal(got[name], want)


def test_every_step_has_vectors() -> None:
    assert {step["op"] for vector in VECTORS for step in vector["steps"]} == OPS


def test_every_step_is_specified() -> None:
    text = (REFERENCE / "preprocessing.md").read_text()

    assert [op for op in sorted(OPS) if f"### `{op}`" not in text] == []
