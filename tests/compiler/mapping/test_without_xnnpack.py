"""A model that XNNPACK refuses and LiteRT's own kernels compute: it compiles, and says so."""

from pathlib import Path

import numpy as np
import pytest
from tflite_kit import Network, ints, options

from edgec_compiler.compiling import CompileOptions, compile_model
from edgec_runtime import ModelError, load_session


def _resize(scale: float) -> bytes:
    network = Network()
    source = network.input([1, 2, 2, 4])
    size = network.tensor("size", **ints([4, 4]))
    made = network.tensor("out", [1, 4, 4, 4], scale=scale)
    resize = options("ResizeBilinear", alignCorners=True)
    return network.bytes(network.op("RESIZE_BILINEAR", [source, size], made, resize))


def test_it_loads_without_xnnpack_and_computes(caplog: pytest.LogCaptureFixture) -> None:
    feeds = {"in": np.arange(16, dtype=np.int8).reshape(1, 2, 2, 4)}
    same, other = (load_session(_resize(scale), "litert") for scale in (0.5, 0.25))

    assert same.delegates == ("xnnpack", "cpu")
    assert other.delegates == ("cpu",)
    assert "XNNPACK refuses the model, which runs slower without it" in caplog.text
    np.testing.assert_array_equal(other.run(feeds)["out"], same.run(feeds)["out"])


def test_what_no_kernel_computes_is_refused_with_the_first_reason() -> None:
    network = Network()
    source = network.input([1, 2, 2, 4])
    broken = network.bytes(network.op("NOT_KNOWN", [source], network.tensor("out", [1])))

    with pytest.raises(ModelError, match="NOT_KNOWN"):
        load_session(broken, "litert")


def test_a_compile_notes_it(tmp_path: Path) -> None:
    (tmp_path / "resize.tflite").write_bytes(_resize(0.25))
    wanted = CompileOptions(
        str(tmp_path / "resize.tflite"), ("rpi4",), str(tmp_path / "out"), name="resize"
    )

    (result,) = compile_model(wanted, lambda step, target: None)

    assert result.facts is not None, result.error
    assert result.facts["agreement"] == 1
    assert any(note.startswith("XNNPACK refuses this model") for note in result.facts["notes"])
