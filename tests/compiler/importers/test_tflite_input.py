"""TFLite files as input: passed through, mended, bounded, and photos where pixels are evident."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from compiler_kit import ROOT, Compiled, edgec
from tflite_kit import Network, options

from edgec_bundle.archive import open_bundle
from edgec_compiler import tflite
from edgec_compiler.convert.parity import check_same
from edgec_compiler.errors import ConversionError, ModelFileError
from edgec_compiler.importers import import_model
from edgec_compiler.importers.image_steps import image_steps
from edgec_compiler.importers.tflite_activations import with_activations
from edgec_compiler.importers.tflite_bounds import check_bounds
from edgec_compiler.importers.tflite_dense import with_dense_values
from edgec_compiler.importers.tflite_floats import as_float
from edgec_compiler.importers.tflite_quantisation import (
    has_quantised_weights,
    own_quantisation,
    repair,
)
from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import plan
from edgec_compiler.quantise.activations import keeping_interpreter
from edgec_compiler.source import SourceModel
from edgec_runtime.session import ModelTensor, load_session

DATA = Path(os.environ.get("EDGEC_TEST_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs real models: EDGEC_TEST_DATA")


@pytest.fixture
def quantised(compiled: Compiled, tmp_path: Path) -> Path:
    """The digits model as a full-integer file."""
    file = tmp_path / "digits.tflite"
    file.write_bytes(open_bundle(compiled.folder / "coral-edgetpu").read("model"))
    return file


def _weights(model: tflite.Flatbuffer) -> Any:
    graph = model.subgraphs[0]
    conv = next(o for o in graph.operators if tflite.op_name(model, o) == "CONV_2D")
    return graph.tensors[conv.inputs[1]]


def test_a_sound_quantised_file_is_taken_byte_for_byte(quantised: Path) -> None:
    source = import_model(str(quantised), {})

    assert source.quantised
    assert source.payload == quantised.read_bytes()
    assert source.notes == ()
    assert own_quantisation(quantised) == "whole"


def test_values_behind_the_flatbuffer_are_read_like_those_in_it(quantised: Path) -> None:
    sound = tflite.parse(quantised.read_bytes(), "m")
    values = [None if one.data is None else one.data.copy() for one in sound.buffers]
    behind = b""
    for _ in range(2):  # the second time the flatbuffer's own size is known
        size, behind = len(tflite.serialise(sound)) if behind else 1, b""
        for one, value in zip(sound.buffers, values, strict=True):
            if value is not None:
                one.data, one.offset, one.size = None, size + len(behind), len(value)
                behind += value.tobytes()

    model = tflite.parse(tflite.serialise(sound) + behind, "m")

    for one, value in zip(model.buffers, values, strict=True):
        assert value is None or (isinstance(one.data, np.ndarray) and (one.data == value).all())


def test_a_quantized_dimension_out_of_range_is_mended(quantised: Path) -> None:
    sound = quantised.read_bytes()
    model = tflite.parse(sound, "m")
    count = len(_weights(model).quantization.scale)
    assert count > 1
    _weights(model).quantization.quantizedDimension = 7
    quantised.write_bytes(tflite.serialise(model))

    source = import_model(str(quantised), {})

    assert source.notes == ("repaired the quantized_dimension of 1 tensors",)
    assert source.payload is not None
    mended = _weights(tflite.parse(source.payload, "m")).quantization
    assert mended.quantizedDimension == 0
    assert len(mended.scale) == count


def test_zero_points_that_are_left_out_are_zero(quantised: Path) -> None:
    model = tflite.parse(quantised.read_bytes(), "m")
    _weights(model).quantization.zeroPoint = None

    assert repair(model, "m") == ("repaired the zero points of 1 tensors",)
    assert set(_weights(model).quantization.zeroPoint) == {0}


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ([0.0], "scale that is not above zero"),
        ([float("nan")], "scale that is not above zero"),
        ([1.0] * 3, "has 3 scales for shape"),
    ],
)
def test_quantisation_without_a_meaning_is_refused(
    quantised: Path, scale: list[float], said: str
) -> None:
    model = tflite.parse(quantised.read_bytes(), "m")
    _weights(model).quantization.scale = scale
    _weights(model).quantization.zeroPoint = [0] * len(scale)
    quantised.write_bytes(tflite.serialise(model))

    with pytest.raises(ModelFileError, match=said):
        import_model(str(quantised), {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"edgetpu-custom-op", "give the .tflite file that the Edge TPU compiler was given"),
        (b"ethos-u", "give the .tflite file that Vela was given"),
        (b"FlexErf", "without Select TF operators"),
    ],
)
def test_a_file_for_one_device_only_is_refused_with_the_way_out(
    quantised: Path, name: bytes, said: str
) -> None:
    model = tflite.parse(quantised.read_bytes(), "m")
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = 32
    code.customCode = name
    quantised.write_bytes(tflite.serialise(model))

    with pytest.raises(ModelFileError, match=said):
        import_model(str(quantised), {})


def test_files_of_old_converters_get_both_numbers_of_their_operators() -> None:
    sound = (ROOT / "tests" / "runtime" / "fixtures" / "quadrants.tflite").read_bytes()
    model = tflite.parse(sound, "m")
    wanted = [code.builtinCode for code in model.operatorCodes]
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode, code.builtinCode = code.builtinCode, 0

    mended = tflite.parse(as_float(tflite.serialise(model)), "m")

    assert [code.builtinCode for code in mended.operatorCodes] == wanted
    assert as_float(tflite.serialise(mended)) == tflite.serialise(mended)


def _bounded_sum(*, narrow: bool = False, seen: bool = False) -> bytes:
    """Return y = RELU(x + w), w a row of eight half floats or floats; `seen` gives out x + w."""
    net = Network()
    x = net.input([1, 8], "float32", "x")
    row = net.tensor("w", [8], "float16" if narrow else "float32", np.linspace(-1, 1, 8))
    if narrow:
        row = net.op("DEQUANTIZE", [row], net.tensor("wide", [8], "float32"))
    total = net.op("ADD", [x, row], net.tensor("sum", [1, 8], "float32"), options("Add"))
    y = net.op("RELU", [total], net.tensor("y", [1, 8], "float32"))
    return net.bytes(*([total, y] if seen else [y]))


def test_narrow_values_are_not_kept_beside_the_wide_ones() -> None:
    wide = tflite.parse(as_float(_bounded_sum(narrow=True)), "m")

    stored = [len(one.data) for one in wide.buffers if one.data is not None and len(one.data)]
    assert stored == [8 * 4]


def test_sparse_weights_are_read_as_the_dense_ones_that_they_stand_for() -> None:
    net = Network()
    x = net.input([1, 4], "float32", "x")
    sparse = net.tensor("sparse", [2, 4], "float16", [1, 2, 3])
    net.graph.tensors[sparse].sparsity = _rows_of_columns(4, ends=[0, 1, 3], columns=[2, 0, 3])
    row = net.op("DENSIFY", [sparse], net.tensor("dense", [2, 4], "float16"))
    row = net.op("DEQUANTIZE", [row], net.tensor("wide", [2, 4], "float32"))
    y = net.tensor("y", [1, 2], "float32")
    net.op("FULLY_CONNECTED", [x, row, -1], y, options("FullyConnected"))
    payload = net.bytes(y)

    made = as_float(with_dense_values(payload))

    model = tflite.parse(made, "m")
    (layer,) = model.subgraphs[0].operators
    data = model.buffers[model.subgraphs[0].tensors[layer.inputs[1]].buffer].data
    assert np.frombuffer(bytes(data), np.float32).tolist() == [0, 0, 1, 0, 2, 0, 0, 3]
    assert sum(len(one.data) for one in model.buffers if one.data is not None) == 8 * 4
    check_same(payload, made, "dense weights")


def _rows_of_columns(width: int, *, ends: list[int], columns: list[int]) -> Any:
    """Return how a matrix of rows is stored that says where its values lie."""
    rows, places = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    rows.format, rows.denseSize = schema.DimensionType.DENSE, len(ends) - 1
    places.format, places.denseSize = schema.DimensionType.SPARSE_CSR, width
    places.arraySegmentsType = schema.SparseIndexVector.Int32Vector
    places.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    places.arraySegments, places.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    places.arraySegments.values, places.arrayIndices.values = ends, columns
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.blockMap = [0, 1], []
    sparsity.dimMetadata = [rows, places]
    return sparsity


def test_an_activation_becomes_part_of_the_layer_that_it_bounds() -> None:
    payload = _bounded_sum()

    made = with_activations(payload)

    (layer,) = tflite.parse(made, "m").subgraphs[0].operators
    assert layer.builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.RELU
    check_same(payload, made, "the activation")


def test_an_activation_of_what_is_given_out_too_stays() -> None:
    payload = _bounded_sum(seen=True)

    assert with_activations(payload) == payload


def test_a_transposed_convolution_of_mediapipe_is_read_as_tflites_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    net = Network()
    x = net.input([1, 5, 4, 4], "float32", "x")
    read = [x, net.tensor("w", [2, 3, 3, 4], "float32", weights)]
    read.append(net.tensor("b", [2], "float32", [1, -1]))
    y = net.op("Convolution2DTransposeBias", read, net.tensor("y", [1, 11, 12, 2], "float32"))
    steps = np.array([2, 3, 2], "<i4")  # VALID, 3 in width, 2 in height
    net.graph.operators[0].customOptions = np.frombuffer(steps.tobytes(), np.uint8)
    file = tmp_path / "up.tflite"
    file.write_bytes(net.bytes(y))

    source = import_model(str(file), {})

    assert source.notes == ("Convolution2DTransposeBias (1) is read as TRANSPOSE_CONV",)
    assert source.payload is not None
    image = rng.normal(size=(1, 5, 4, 4)).astype(np.float32)
    session = load_session(source.payload, "litert")
    (made,) = session.run({"x": image}).values()
    session.close()
    wanted = F.conv_transpose2d(
        torch.from_numpy(image).permute(0, 3, 1, 2),
        torch.from_numpy(weights).permute(3, 0, 1, 2),
        torch.tensor([1.0, -1.0]),
        (2, 3),
    )
    np.testing.assert_allclose(made, wanted.permute(0, 2, 3, 1), atol=1e-5)


def test_values_inside_a_model_that_only_another_runtime_computes_are_refused() -> None:
    net = Network()
    x = net.input([1, 8], "float32", "x")
    y = net.op("Nobodys", [x], net.tensor("y", [1, 8], "float32"))

    with pytest.raises(ConversionError, match=r"custom op: Nobodys\. Take --precision fp32"):
        keeping_interpreter(net.bytes(y))


@needs_data
def test_weights_that_are_stored_narrow_are_read_as_the_floats_they_stand_for() -> None:
    payload = (DATA / "mlperf_tiny" / "kws_fp32.tflite").read_bytes()  # int8 weights, float sums
    values = np.random.default_rng(0).random((1, 49, 10, 1), np.float32)

    wide = as_float(payload)

    assert not has_quantised_weights(tflite.parse(wide, "m"))
    answers = []
    for one in (payload, wide):
        session = load_session(one, "litert")
        answers.append(session.run({session.inputs[0].name: values})[session.outputs[0].name])
        session.close()
    assert np.abs(answers[0] - answers[1]).max() < 0.02  # 8-bit activations on the fly


@needs_data
def test_a_file_with_narrow_weights_is_told_as_what_it_is() -> None:
    model = str(DATA / "mlperf_tiny" / "kws_fp32.tflite")

    (one,) = plan(CompileOptions(model=model, targets=("rpi4",), out="", name="kws"))

    assert (one.recipe.precision, one.note) == ("dynamic", None)


def test_tables_that_are_shared_a_million_times_are_refused_at_once() -> None:
    count, name = 60_000, 200_000
    names = bytearray(struct.pack("<I", name) + b"x" * name)
    # root table at 28: subgraphs -> one graph -> tensors, all the same one, with one long name
    head = bytearray(struct.pack("<I4s", 28, b"TFL3"))
    head += struct.pack("<HHHHHH", 12, 8, 0, 0, 4, 0) + bytes(8)
    assert len(head) == 28
    file = head + struct.pack("<iI", 20, 4)  # soffset to the vtable at 8; subgraphs at 36
    file += struct.pack("<II", 1, 12)  # one graph, at 52
    file += struct.pack("<HHHH", 8, 8, 4, 0) + bytes(0)  # its vtable at 44: tensors
    file += struct.pack("<iI", 8, 4)  # the graph at 52: tensors at 60
    at = len(file)
    tensor = at + 4 + 4 * count + 12
    file += struct.pack("<I", count)
    file += b"".join(struct.pack("<I", tensor - (at + 4 + 4 * i)) for i in range(count))
    file += struct.pack("<HHHHHH", 12, 8, 0, 0, 0, 4)  # vtable: name
    file += struct.pack("<iI", 12, 4) + names

    with pytest.raises(ValueError, match="shared more often"):
        check_bounds(bytes(file))


def _image_model(dtype: str, scale: float, zero: int, shape: tuple[int, ...]) -> SourceModel:
    given = ModelTensor("image", dtype, shape, scale, zero)
    made = ModelTensor("scores", dtype, (1, 10), 1 / 256, 0)
    return SourceModel("tflite", "m", "", 0, (given,), (made,), (), None, b"", quantised=True)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero", "steps"),
    [
        ("uint8", 1 / 128, 128, ["decode_image", "resize"]),
        ("uint8", 1 / 255, 0, ["decode_image", "resize"]),
        ("int8", 1.0, -128, ["decode_image", "resize", "cast", "quantize"]),
        ("int8", 0.58, 83, []),  # some signal
    ],
)
def test_pixels_are_known_by_the_range_that_the_input_stands_for(
    dtype: str, scale: float, zero: int, steps: list[str]
) -> None:
    found = image_steps(_image_model(dtype, scale, zero, (1, 32, 32, 3)))

    assert [step["op"] for step in found.preprocessing] == steps
    assert [step["op"] for step in found.postprocessing] == (["dequantize"] if steps else [])


def test_a_plane_of_two_channels_is_no_image() -> None:
    assert not image_steps(_image_model("uint8", 1 / 255, 0, (1, 32, 32, 2))).inputs


@needs_data
@pytest.mark.parametrize(
    ("model", "photo", "label"),
    [
        ("mobilenet_v1_0.25_128_quant", "parrot.jpg", "macaw"),
        ("mobilenet_v2_1.0_224_quant", "cat.bmp", "Egyptian cat"),
    ],
)
def test_a_photo_gets_its_class_without_any_options(
    model: str, photo: str, label: str, tmp_path: Path
) -> None:
    coral = DATA / "coral"
    out = tmp_path / "out"

    done = edgec(
        *("compile", str(coral / f"{model}.tflite"), "--target", "coral-edgetpu"),
        *("--labels", str(coral / "imagenet_labels.txt"), "--out", str(out), "--json"),
    )
    assert done.code == 0, done.err
    assert open_bundle(out).read("model") == (coral / f"{model}.tflite").read_bytes()
    answer = edgec("run", str(out), "--input", str(coral / photo), "--json")

    assert answer.lines[0]["label"] == label


@needs_data
@pytest.mark.full
@pytest.mark.parametrize("target", ["coral-edgetpu", "rpi4", "generic-x86_64-tflite"])
@pytest.mark.parametrize(
    "name",
    [
        *("mlperf_tiny/kws_int8", "mlperf_tiny/resnet8_int8", "mlperf_tiny/vww_int8"),
        *("mlperf_tiny/kws_fp32", "mlperf_tiny/resnet8_fp32", "mlperf_tiny/vww_fp32"),
        "coral/deeplabv3_mnv2_dm05_pascal_quant",
    ],
)
def test_real_models_compile_for_every_tflite_target(
    name: str, target: str, tmp_path: Path
) -> None:
    model = DATA / f"{name}.tflite"
    options: list[str] = []
    if name.endswith("fp32"):
        (tensor,) = import_model(str(model), {}).inputs
        values = np.random.default_rng(0).random((8, *tensor.shape[1:]), np.float32)
        np.savez(tmp_path / "samples.npz", inputs=values)
        options = ["--calibration", str(tmp_path / "samples.npz"), "--max-accuracy-drop", "1"]

    done = edgec(
        *("compile", str(model), "--target", target, "--out", str(tmp_path / "out"), "--json"),
        *options,
    )

    assert done.code == 0, done.err
    assert done.lines[0]["precision"] == "int8"
