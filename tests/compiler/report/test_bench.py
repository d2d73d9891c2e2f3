"""`edgec bench`: what it measures, how far it trusts a ratio, and what it cannot run."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiler_kit import DIGITS, Compiled, edgec
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgec_compiler.timing.running import TimingError, ratio_of, time_in_turns

TIMES = st.lists(st.floats(0.01, 100), min_size=1, max_size=40)


@given(TIMES)
def test_a_model_is_as_fast_as_itself(rounds: list[float]) -> None:
    ratio = ratio_of(rounds, rounds)

    assert (ratio.low, ratio.median, ratio.high) == (1, 1, 1)
    assert ratio.words().startswith("no difference can be told here")


@given(TIMES, st.floats(1.01, 10))
def test_a_steady_difference_is_told_with_its_factor(rounds: list[float], factor: float) -> None:
    slower = [value * factor for value in rounds]

    assert ratio_of(rounds, slower).words().startswith(f"{factor:.2f}x faster")
    assert ratio_of(slower, rounds).words().startswith(f"{factor:.2f}x slower")


def test_one_odd_round_does_not_hide_a_difference() -> None:
    ratio = ratio_of([1.0] * 19 + [9.0], [2.0] * 20)

    assert ratio.words().startswith("2.00x faster")


def test_a_bundle_is_timed_beside_the_model_that_it_was_made_from(compiled: Compiled) -> None:
    bundle, model = compiled.folder / "generic-x86_64", DIGITS / "1.0.0.onnx"

    done = edgec("bench", str(bundle), "--against", str(model), "--runs", "20", "--json")

    assert done.code == 0, done.err
    (facts,) = done.lines
    assert facts["measures"] == "the model file alone, on noise"
    assert facts["runs"] == facts["against"]["runs"] == 20
    for one in (facts, facts["against"]):
        assert 0 < one["latency_ms"]["p50"] <= one["latency_ms"]["p95"] <= one["latency_ms"]["p99"]
        assert min(one["load_ms"].values()) > 0
        assert one["process_bytes"] > one["memory_bytes"] > 0
    assert facts["ratio"]["low"] <= facts["ratio"]["median"] <= facts["ratio"]["high"]


def test_a_compile_measures_loading_where_this_machine_is_the_target(compiled: Compiled) -> None:
    here = json.loads((compiled.folder / "generic-x86_64" / "measurements.json").read_text())
    there = json.loads((compiled.folder / "coral-edgetpu" / "measurements.json").read_text())

    assert here["load_ms"]["cold"] > 0 < here["load_ms"]["warm"]
    assert here["first_ms"] > 0 < here["memory_bytes"]
    assert there["load_ms"] is None is there["latency_ms"]


def test_what_is_no_model_is_told_by_its_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07 nothing more")

    with pytest.raises(TimingError, match=r"broken\.onnx|model"):
        time_in_turns([str(broken)], runs=1, threads=1, whole=False)


def test_a_model_with_free_axes_is_timed_and_evaluated_at_a_shape(
    compiled: Compiled, tmp_path: Path
) -> None:
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, *sizes])]
        for name, sizes in (("x", ["h", "w"]), ("y", [1, 1]))
    ]
    model = str(tmp_path / "free.onnx")
    graph = helper.make_graph([node], "free", *ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), model)
    np.savez(tmp_path / "data.npz", inputs=np.ones((3, 2, 4, 6), np.float32))
    data = ("--data", str(tmp_path / "data.npz"))
    bundle = str(compiled.folder / "generic-x86_64")
    against = ("bench", bundle, "--against", model, "--runs", "1")

    assert edgec("evaluate", model, *data, "--shape", "x=1,2,4,6").code == 0
    assert edgec(*against, "--shape", "x=1,2,4,6").code == 0

    for free in (edgec("evaluate", model, *data), edgec(*against)):
        assert (free.code, free.err.count("\n")) == (2, 1)
        assert "fix it with --shape x=1,2,N,N" in free.err
    for wrong in (("evaluate", bundle, *data), ("bench", bundle)):
        refused = edgec(*wrong, "--shape", "x=1,2,4,6")
        assert refused.code == 2
        assert "--shape" in refused.err
    other = edgec("evaluate", model, *data, "--shape", "z=1")
    assert "the model has no input 'z'; its inputs are x" in other.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([str(DIGITS / "1.0.0.onnx")], "expected a bundle"),
        (["nowhere"], "expected a bundle"),
        (["nowhere", "--runs", "0"], "--runs: expected 1 or more"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], said: str) -> None:
    done = edgec("bench", *arguments)

    assert done.code == 2
    assert said in done.err
