"""From the portable model to a target's own form: Vela, vendors' programs, microcontrollers."""

import json
import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tflite_kit import DATA, Network, options

from edgec_compiler.errors import ConversionError, NotAchievedError
from edgec_compiler.mapping import micro, vela, vendor
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.fitting import fit_to_target
from edgec_compiler.mapping.micro import Lifetime, method, planned_bytes
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import Profile, load, names
from edgec_hardware_profiles.support import KINDS

U55, M7, CORAL, RK = (load(n) for n in ("ethos-u55-128", "cortex-m7", "coral-edgetpu", "rk3588"))
needs_vela = pytest.mark.skipif(not vela.is_installed(), reason="needs the extra vela")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs real models: set EDGEC_TEST_DATA")


def network(kind: str = "RELU", dtype: str = "int8") -> bytes:
    made = Network()
    shape = [1, 4, 4, 8]
    a = made.op(kind, [made.input(shape, dtype)], made.tensor("a", shape, dtype))
    return made.bytes(made.op("RELU", [a], made.tensor("b", shape, dtype)))


@needs_vela
def test_vela_compiles_and_its_figures_are_read() -> None:
    fitted = fit_to_target(network(), "tflite", U55, "net")

    assert fitted.own_binary
    assert (fitted.mapping.accelerated, fitted.mapping.total) == (2, 2)
    assert fitted.mapping.basis == "compiled"
    assert fitted.extras["reference"] == ("reference.tflite", network())
    assert [o.op for o in read_tflite(fitted.payload, "vela").operators] == ["ethos-u"]
    assert fitted.figures["inference_ms"] > 0
    assert fitted.figures["clock_hz"] == 500e6  # of the system configuration in the profile


@needs_vela
def test_equal_models_give_equal_binaries() -> None:
    first, second = (fit_to_target(network(), "tflite", U55, "net").payload for _ in range(2))

    assert first == second


@needs_vela
def test_a_model_of_which_vela_maps_nothing_is_no_success() -> None:
    with pytest.raises(NotAchievedError, match=r"no operator runs on the NPU: RELU: .*Float32"):
        fit_to_target(network(dtype="float32"), "tflite", U55, "net")


@needs_vela
def test_weights_of_four_bits_are_refused_before_vela_crashes_on_them() -> None:
    made = Network()
    weights = made.tensor("w", [4, 1, 1, 8], "int4", np.zeros(16))
    out = made.tensor("out", [1, 4, 4, 4])
    made.op("CONV_2D", [made.input([1, 4, 4, 8]), weights], out, options("Conv2D"))

    with pytest.raises(ConversionError, match="weights must have 8 bits, but 'w' int4"):
        fit_to_target(made.bytes(out), "tflite", U55, "net")


@needs_vela
def test_a_tensor_that_vela_does_not_take_is_told_with_its_operator() -> None:
    made = Network()
    source, most = made.input([1, 8]), made.tensor("most", [1], values=[127], scale=np.inf)
    out = made.op("EQUAL", [source, most], made.tensor("out", [1, 8], "bool"))

    with pytest.raises(
        ConversionError,
        match=r"Vela does not take 'most', which EQUAL reads: Tensor Quantization scales must",
    ):
        fit_to_target(made.bytes(out), "tflite", U55, "net")


@needs_vela
@needs_data
@pytest.mark.parametrize("name", ["resnet8_int8", "kws_int8", "vww_int8"])
def test_the_table_predicts_what_vela_does_with_real_models(name: str) -> None:
    payload = (DATA / "mlperf_tiny" / f"{name}.tflite").read_bytes()

    made = vela.compile_with_vela(payload, U55, U55.tools[0])

    predicted = check(read_tflite(payload, name), U55)
    assert [v.on for v in made.mapping.ops] == [v.on for v in predicted.ops]
    assert made.mapping.total == predicted.total


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def path_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


# Leaves everything from the second operator on to the CPU, as the vendor's compiler would.
EDGETPU = """
import sys
from pathlib import Path
from edgec_compiler import tflite
arguments = sys.argv[1:]
out, model = Path(arguments[arguments.index("--out_dir") + 1]), Path(arguments[-1])
graph = tflite.parse(model.read_bytes(), "model")
code = graph.operatorCodes[graph.subgraphs[0].operators[0].opcodeIndex]
code.builtinCode = code.deprecatedBuiltinCode = 32
code.customCode = b"edgetpu-custom-op"
(out / f"{model.stem}_edgetpu.tflite").write_bytes(tflite.serialise(graph))
"""


def test_a_vendors_program_on_path_is_run_and_its_output_is_read(path_of_ours: Path) -> None:
    program(path_of_ours, "edgetpu_compiler", EDGETPU)

    fitted = fit_to_target(network(), "tflite", CORAL, "net")

    assert [v.on for v in fitted.mapping.ops] == ["npu", "cpu"]
    assert fitted.mapping.basis == "compiled"
    assert fitted.extras["reference"][1] == network()
    assert fitted.own_binary


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit('Internal compiler error. Aborting!')", "Internal compiler error"),
        ("import os; os.abort()", "crashed with SIGABRT"),
        ("", r"left no model_edgetpu\.tflite"),
    ],
)
def test_a_vendors_program_that_fails_is_told_with_its_last_words(
    path_of_ours: Path, text: str, message: str
) -> None:
    program(path_of_ours, "edgetpu_compiler", text)

    with pytest.raises(ConversionError, match=message):
        fit_to_target(network(), "tflite", CORAL, "net")


def test_a_program_that_never_ends_is_ended(path_of_ours: Path) -> None:
    program(path_of_ours, "edgetpu_compiler", "import time; time.sleep(600)")
    profile = replace(CORAL, tools=(replace(CORAL.tools[0], timeout_s=1),))

    with pytest.raises(ConversionError, match="did not end in time"):
        fit_to_target(network(), "tflite", profile, "net")


def test_an_absent_program_is_said_plainly_and_the_portable_model_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    fitted = fit_to_target(network(), "tflite", CORAL, "net")

    assert (fitted.payload, fitted.own_binary, fitted.extras) == (network(), False, {})
    assert "edgetpu_compiler was not found on PATH" in fitted.notes[0]
    assert "apt repository" in fitted.notes[0]


RECORDER = """
import json, sys
from pathlib import Path
place = Path(sys.argv[-1])
(place / "sub").mkdir()
(place / "sub" / "model.rknn").write_bytes(b"RKNN" + (place / "config.yml").read_bytes())
"""


def test_a_program_gets_its_files_and_its_result_is_found(path_of_ours: Path) -> None:
    program(path_of_ours, "rknn_convert", RECORDER)

    made = vendor.compile_with_tool(b"onnx", "onnx", RK, RK.tools[0])

    assert made.payload.startswith(b"RKNNmodels:\n    name: model\n")
    assert b"model.onnx\n" in made.payload
    assert made.format == "rknn"


def test_a_program_that_quantises_gets_the_calibration_samples(path_of_ours: Path) -> None:
    program(
        path_of_ours,
        "hailo",
        "import sys, numpy\nfrom pathlib import Path\n"
        "if sys.argv[1] == 'optimize':\n"
        "    shape = numpy.load(sys.argv[sys.argv.index('--calib-set-path') + 1]).shape\n"
        "    Path('shape').write_text(str(shape))\n"
        "if sys.argv[1] == 'compiler': Path('model.hef').write_text(Path('shape').read_text())\n",
    )
    hailo = load("hailo-8")
    samples = np.zeros((2, 3, 8, 9), np.float32)

    made = vendor.compile_with_tool(b"onnx", "onnx", hailo, hailo.tools[0], samples)

    assert made.payload == b"(2, 8, 9, 3)"
    with pytest.raises(ConversionError, match="add --calibration DATA"):
        vendor.compile_with_tool(b"onnx", "onnx", hailo, hailo.tools[0])


def test_a_microcontroller_gets_the_model_as_c_its_arena_and_its_operators() -> None:
    fitted = fit_to_target(network(), "tflite", M7, "net")

    source, header = (fitted.extras[role][1].decode() for role in ("source", "header"))
    found = bytes(int(one, 16) for one in re.findall(r"0x([0-9a-f]{2})", source))
    assert found == network()
    assert "resolver.AddRelu()" in header
    assert "kEdgecOperators = 1;" in header
    arena = int(re.findall(r"kEdgecArenaBytes = (\d+);", header)[0])
    assert arena == fitted.figures["arena_bytes"]
    assert 256 <= arena < 8192  # two tensors of 128 bytes, and the interpreter's records


def test_a_microcontroller_without_the_memory_refuses() -> None:
    small = replace(M7, memory_bytes=1000)

    with pytest.raises(NotAchievedError, match=r"arena needs about \d+ bytes, the device has 1000"):
        fit_to_target(network(), "tflite", small, "net")


def test_an_operator_that_a_microcontroller_lacks_is_named() -> None:
    with pytest.raises(NotAchievedError, match="TFLite Micro has no such operator: FlexErf"):
        fit_to_target(network("FlexErf"), "tflite", M7, "net")


@needs_data
@pytest.mark.parametrize(
    ("name", "tensors"),
    # The largest sum of tensors that live together, counted by hand from the graph: two images of
    # 32x32x16 and one of 32x32x16 kept for the residual; 25x5x64 twice; 48x48x16 and 48x48x8.
    [("resnet8_int8", 3 * 32 * 32 * 16), ("kws_int8", 2 * 25 * 5 * 64), ("vww_int8", 55296)],
)
def test_the_arena_of_real_models_is_what_lives_together(name: str, tensors: int) -> None:
    graph = read_tflite((DATA / "mlperf_tiny" / f"{name}.tflite").read_bytes(), name)

    arena = micro.arena_bytes(graph)

    assert tensors <= arena <= 2 * tensors + 16384


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 4)), max_size=12))
def test_a_plan_is_no_less_than_what_lives_together_and_no_more_than_all(
    buffers: list[tuple[int, int, int]],
) -> None:
    lifetimes = [Lifetime(size, first, first + more) for size, first, more in buffers]

    planned = planned_bytes(lifetimes)

    living = [sum(b.size for b in lifetimes if b.first <= t <= b.last) for t in range(15)]
    assert max(living) <= planned <= sum(b.size for b in lifetimes)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("CONV_2D", "AddConv2D"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("RESIZE_NEAREST_NEIGHBOR", "AddResizeNearestNeighbor"),
        ("L2_NORMALIZATION", "AddL2Normalization"),
    ],
)
def test_operators_are_added_by_the_resolvers_own_methods(op: str, expected: str) -> None:
    assert method(op) == expected


def test_a_target_of_ones_own_needs_no_python(tmp_path: Path, path_of_ours: Path) -> None:
    program(
        path_of_ours,
        "acme",
        "import sys; from pathlib import Path\n"
        "Path('x.acme').write_bytes(Path(sys.argv[1]).read_bytes()[::-1])",
    )
    file = tmp_path / "acme.toml"
    file.write_text(ACME)
    profile = load(file)
    assert isinstance(profile, Profile)

    fitted = fit_to_target(network(), "tflite", profile, "net")
    mapping: dict[str, Any] = json.loads(
        json.dumps(check(read_tflite(network(), "x"), profile).to_json())
    )

    assert fitted.payload == network()[::-1]
    assert (fitted.path, fitted.format) == ("model_acme-one.acme", "acme")
    assert [op["on"] for op in mapping["ops"]] == ["npu", "npu"]


ACME = """
schema = 1
name = "acme-one"
title = "Acme One"
arch = "any"
accelerator = "acme"

[runtime]
name = "acme-runtime"
min_version = "1.0"
delegate = "npu"

[model]
format = "tflite"
formats = ["tflite"]
precisions = ["int8"]
default_precision = "int8"
input_layout = "NHWC"

[sources]
"runtime.min_version" = "the vendor's manual"

[tools.acme]
program = "acme"
steps = [["acme", "{model}"]]
result = "*.acme"
format = "acme"

[mapping]
on = "npu"
dtypes = ["int8"]
operators = ["RELU"]
"""


@pytest.mark.parametrize("name", names())
def test_whatever_a_target_refuses_comes_with_something_to_try(name: str) -> None:
    support = load(name).support

    assert support is None or set(support.fixes) == set(KINDS)
