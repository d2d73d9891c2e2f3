"""TFLite files as converters from TensorFlow write them, compiled for integer targets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_kit import Network, ints, options, relu

from edgec_bundle.archive import open_bundle
from edgec_compiler import tflite
from edgec_compiler.compiling import CompileOptions, compile_model
from edgec_compiler.convert.write_out import write_out
from edgec_compiler.importers.tflite_dilations import with_dilations
from edgec_compiler.importers.tflite_file import source_of
from edgec_compiler.importers.tflite_floats import as_float
from edgec_compiler.importers.tflite_reshapes import with_reshapes
from edgec_compiler.quantise.infinities import without_infinities
from edgec_runtime import load_session

IN_INT32 = options("Shape", outType=schema.TensorType.INT32)
LONG = ";".join(f"model/block_{i}/conv/BiasAdd" for i in range(8))  # as fused layers are named


def _compiled(payload: bytes, folder: Path, target: str, **more: Any) -> dict[str, Any]:
    (folder / "m.tflite").write_bytes(payload)
    wanted = CompileOptions(
        str(folder / "m.tflite"), (target,), str(folder / "out"), name="m", **more
    )
    (result,) = compile_model(wanted, lambda step, of: None)
    assert result.facts is not None, result.error
    return dict(result.facts)


def test_a_quantised_model_may_end_in_float_operators(tmp_path: Path) -> None:
    network = Network()
    source = network.input([1, 4])
    ceiled = network.op("RELU", [source], network.tensor("relu", [1, 4]))
    real = network.op("DEQUANTIZE", [ceiled], network.tensor("real", [1, 4], "float32"), version=2)
    made = network.op("CEIL", [real], network.tensor("out", [1, 4], "float32"))

    facts = _compiled(network.bytes(made), tmp_path, "coral-edgetpu")

    assert facts["ops"] == {"total": 3, "accelerated": 1}
    assert "computed in float, on the CPU: CEIL (output of shape [1, 4])" in facts["notes"]


def test_names_too_long_for_a_manifest_become_plain_ones(tmp_path: Path) -> None:
    network = Network()
    source = network.input([1, 4], name=LONG)
    outputs = [network.op("RELU", [source], network.tensor(name, [1, 4])) for name in ("a", LONG)]

    facts = _compiled(network.bytes(*outputs), tmp_path, "rpi4")

    manifest = open_bundle(tmp_path / "out").manifest
    assert facts["agreement"] == 1
    assert [spec.name for spec in manifest.inputs] == ["input"]
    assert [spec.name for spec in manifest.outputs] == ["output_0", "output_1"]


def test_an_input_that_is_handed_on_keeps_its_name(tmp_path: Path) -> None:
    network = Network()
    source, state = (network.input([1, 4], "float32", name) for name in ("x", "state"))
    made = network.op("ADD", [source, state], network.tensor("out", [1, 4], "float32"))
    rows = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=rows, state=rows)

    data = str(tmp_path / "data.npz")
    facts = _compiled(network.bytes(made, state), tmp_path, "rpi4", calibration=data)

    assert facts["precision"] == "int8"


def test_moving_axes_stays_an_integer_operation(tmp_path: Path) -> None:
    network = Network()
    source = network.input([1, 2, 1, 4], "float32")
    squeezed = network.op(
        "SQUEEZE",
        [source],
        network.tensor("squeezed", [1, 2, 4], "float32"),
        options("Squeeze", squeezeDims=[2]),
    )
    axis = network.tensor("axis", **ints([1]))
    wide = network.op("EXPAND_DIMS", [squeezed, axis], network.tensor("w", [1, 1, 2, 4], "float32"))
    payload = network.bytes(wide)
    rows = np.random.default_rng(0).standard_normal((4, 2, 1, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=rows)

    reshaped = load_session(with_reshapes(payload), "litert")
    facts = _compiled(payload, tmp_path, "coral-edgetpu", calibration=str(tmp_path / "data.npz"))

    np.testing.assert_array_equal(reshaped.run({"in": rows[:1]})["w"], rows[:1].reshape(1, 1, 2, 4))
    assert facts["ops"] == {"total": 2, "accelerated": 2}


def test_a_recurrent_layer_starts_anew_in_every_run(tmp_path: Path) -> None:
    network = Network()
    source = network.input([1, 3, 2], "float32")
    draw = np.random.default_rng(0)
    weights = [
        network.tensor(f"w{i}", list(shape), "float32", draw.standard_normal(shape))
        for i, shape in enumerate([(4, 2), (4, 4), (4,)])
    ]
    state = network.tensor("state", [1, 4], "float32")
    network.graph.tensors[state].isVariable = True
    made = network.op(
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        [source, *weights, state],
        network.tensor("out", [1, 3, 4], "float32"),
        options("SequenceRNN", timeMajor=False),
    )
    payload = network.bytes(made)
    one, other = ({"in": draw.standard_normal((1, 3, 2)).astype(np.float32)} for _ in range(2))

    session = load_session(payload, "litert")
    first, _, again = (session.run(feeds)["out"] for feeds in (one, other, one))
    facts = _compiled(payload, tmp_path, "generic-x86_64-tflite")

    assert np.abs(first).max() > 0
    np.testing.assert_array_equal(again, first)
    assert facts["agreement"] == 1


def test_a_float_form_has_no_empty_buffers() -> None:
    network = Network()
    source = network.input([1, 4], "float32")
    made = network.op("ADD", [source, source], network.tensor("out", [1, 4], "float32"))
    empty = schema.BufferT()
    empty.data = np.zeros(0, np.uint8)  # LiteRT takes it for values, and misses them
    network.model.buffers.append(empty)
    for tensor in network.graph.tensors:
        tensor.buffer = len(network.model.buffers) - 1

    session = load_session(as_float(network.bytes(made)), "litert")

    assert session.run({"in": np.ones((1, 4), np.float32)})["out"].tolist() == [[2.0] * 4]


def _ends(taken: list[int], made: list[int]) -> tuple[Any, Any, list[str]]:
    """Return the shapes of an imported model's inputs and outputs, and the notes on them."""
    network = Network()
    source = network.input(taken, "float32")
    same = network.op("ABS", [source], network.tensor("same", taken, "float32"))
    if made != taken:
        sizes = network.tensor("sizes", **ints(made))
        result = network.tensor("out", made, "float32")
        same = network.op("RESHAPE", [same, sizes], result, options("Reshape", newShape=made))
    found = source_of(network.bytes(same), {}, "m.tflite", "m", "", 0)
    return found.inputs[0].shape, found.outputs[0].shape, list(found.notes)


@pytest.mark.parametrize(
    ("taken", "made", "expected"),
    [
        pytest.param([8], [1, 2, 4], ((1, 8), (1, 2, 4)), id="a bare waveform"),
        pytest.param([1, 8], [2, 4], ((1, 8), (1, 2, 4)), id="a bare list of boxes"),
        pytest.param([1, 8], [1, 2, 4], ((1, 8), (1, 2, 4)), id="both have it"),
        pytest.param([4, 8], [4, 2, 4], ((4, 8), (4, 2, 4)), id="a batch of four"),
    ],
)
def test_a_batch_axis_is_added_where_one_side_lacks_it(
    taken: list[int], made: list[int], expected: Any
) -> None:
    inputs, outputs, notes = _ends(taken, made)

    assert (inputs, outputs) == expected
    assert len(notes) == (expected != (tuple(taken), tuple(made)))


def test_a_model_without_a_batch_axis_compiles(tmp_path: Path) -> None:
    network = Network()
    source = network.input([8], "float32")
    sizes = network.tensor("sizes", **ints([1, 8]))
    made = network.op("RESHAPE", [source, sizes], network.tensor("out", [1, 8], "float32"))

    facts = _compiled(network.bytes(made), tmp_path, "generic-x86_64-tflite")

    (spec,) = open_bundle(tmp_path / "out").manifest.inputs
    assert (facts["agreement"], spec.shape) == (1, (-1, 8))
    assert "input 'in' has no batch axis: it gets one, and is [1, 8]" in facts["notes"]


def test_a_model_of_integers_has_nothing_to_quantise(tmp_path: Path) -> None:
    network = Network()
    source = network.input([1, 4], "int32")
    made = network.op("ABS", [source], network.tensor("out", [1, 4], "int32"))
    np.savez(tmp_path / "data.npz", inputs=np.arange(-8, 8, dtype=np.int32).reshape(4, 4))

    data = str(tmp_path / "data.npz")
    facts = _compiled(network.bytes(made), tmp_path, "rpi4", calibration=data)

    assert facts["agreement"] == 1


def _sized(network: Network, source: int, sizes: list[int], name: str) -> int:
    """Reshape `source` to its own batch and `sizes`, as TensorFlow writes it."""
    rank = len(network.graph.tensors[source].shape)
    shape = network.op(
        "SHAPE", [source], network.tensor(f"{name}.shape", [rank], "int32"), IN_INT32
    )
    ends = [network.tensor(f"{name}.{n}", **ints([n])) for n in (0, 1, 1)]
    strided = options("StridedSlice", shrinkAxisMask=1)
    batch = network.tensor(f"{name}.batch", [], "int32")
    network.op("STRIDED_SLICE", [shape, *ends], batch, strided)
    rest = [network.tensor(f"{name}.size{n}", [], "int32", n) for n in sizes]
    packed = network.tensor(f"{name}.packed", [1 + len(sizes)], "int32")
    pack = options("Pack", valuesCount=1 + len(sizes))
    network.op("PACK", [batch, *rest], packed, pack)
    made = network.tensor(name, [1, *sizes], "int8")
    return network.op("RESHAPE", [source, packed], made, options("Reshape"))


def test_what_shapes_alone_decide_is_constant(tmp_path: Path) -> None:
    network = Network()
    source = network.input([1, 4, 4, 2])
    made = relu(network, _sized(network, source, [8, 4], "rows"), "out", [1, 8, 4])

    facts = _compiled(network.bytes(made), tmp_path, "ethos-u55-128")

    assert (facts["agreement"], facts["ops"]) == (1, {"total": 2, "accelerated": 2})
    assert (
        "operators that compute with shapes alone are constants: "
        "PACK (1), SHAPE (1), STRIDED_SLICE (1)" in facts["notes"]
    )


def test_constants_that_a_shape_repeats_are_still_dequantised_by_xnnpack() -> None:
    network = Network()
    source = network.input([1, 4])
    ceiled = relu(network, source, "relu", [1, 4])
    boxes = network.tensor("boxes", [1, 4], values=[[1, 2, 3, 4]])
    repeats = network.op("SHAPE", [ceiled], network.tensor("sizes", [2], "int32"), IN_INT32)
    spread = network.op(
        "TILE", [boxes, repeats], network.tensor("spread", [1, 16]), options("Tile")
    )
    rows = _sized(network, spread, [4, 4], "rows")
    real = network.tensor("real", [1, 4, 4], "float32")
    payload = network.bytes(ceiled, network.op("DEQUANTIZE", [rows], real, version=2))

    found = source_of(payload, {}, "m.tflite", "m", "", 0)

    assert found.payload is not None
    feeds = {"in": np.ones((1, 4), np.int8)}
    wanted, given = (load_session(one, "litert").run(feeds) for one in (payload, found.payload))
    assert [operator.op for operator in found.operators] == ["RELU", "RESHAPE", "DEQUANTIZE"]
    np.testing.assert_array_equal(given["real"], wanted["real"])


def test_sizes_that_values_decide_are_no_constants() -> None:
    network = Network()
    source = network.input([1, 4], "float32")
    found = network.op("WHERE", [source], network.tensor("found", [1, 2], "int64"))
    count = network.op("SHAPE", [found], network.tensor("count", [2], "int32"), IN_INT32)
    made = network.op("ABS", [count], network.tensor("out", [2], "int32"))

    source_model = source_of(network.bytes(made), {}, "m.tflite", "m", "", 0)

    assert [operator.op for operator in source_model.operators] == ["WHERE", "SHAPE", "ABS"]


def test_operators_that_no_quantiser_takes_are_written_out(tmp_path: Path) -> None:
    network, shape = Network(), [1, 4, 4, 2]
    slopes = network.tensor("slopes", [1, 1, 2], "float32", [[[0.25, 1.5]]])
    least = network.tensor("least", [1], "float32", [0.75])
    ops: dict[str, tuple[list[int], Any]] = {
        "PRELU": ([slopes], None),
        "MINIMUM": ([least], options("MaximumMinimum")),
        "LEAKY_RELU": ([], options("LeakyRelu", alpha=0.5)),
        "NEG": ([], options("Neg")),
        "ABS": ([], options("Abs")),
        "SQUARE": ([], options("Square")),
        "RELU6": ([], None),
    }
    made = network.input(shape, "float32")
    for op, (more, how) in ops.items():
        made = network.op(op, [made, *more], network.tensor(op, shape, "float32"), how)
    payload = network.bytes(made)
    rows = np.random.default_rng(0).uniform(-2, 2, (128, *shape[1:])).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=rows)

    plain, counts = write_out(payload, ops)
    wanted, given = (load_session(one, "litert").run({"in": rows[:1]}) for one in (payload, plain))
    data = str(tmp_path / "data.npz")
    facts = _compiled(payload, tmp_path, "coral-edgetpu", calibration=data)

    assert counts == dict.fromkeys(sorted(ops), 1)
    np.testing.assert_allclose(given["RELU6"], wanted["RELU6"], atol=1e-6)
    assert facts["ops"] == {"total": 7, "accelerated": 7}


def test_only_what_is_asked_of_infinities_is_left_out() -> None:
    network, shape = Network(), [1, 4]
    source = network.input(shape, "float32")
    least, most = (
        network.tensor(name, [], "float32", value) for name, value in (("l", 0.5), ("i", np.inf))
    )
    asked = [
        network.op("NOT_EQUAL", [source, most], network.tensor("finite", shape, "bool")),
        network.op("EQUAL", [source, least], network.tensor("same", shape, "bool")),
    ]
    made = source
    for name, answer in zip(("first", "second"), asked, strict=True):
        double = network.op(
            "ADD", [made, made], network.tensor(f"{name}_sum", shape, "float32"), options("Add")
        )
        picks = network.tensor(name, shape, "float32")
        made = network.op("SELECT_V2", [answer, double, made], picks, options("SelectV2"))
    payload = network.bytes(made)

    plain = without_infinities(payload)

    model = tflite.parse(plain, "plain")
    ops = [tflite.op_name(model, one) for one in model.subgraphs[0].operators]
    assert ops == ["EQUAL", "ADD", "ADD", "SELECT_V2"]
    assert without_infinities(plain) == plain
    feeds = {"in": np.array([[0.5, -1, 0, 3]], np.float32)}
    wanted, given = (load_session(one, "litert").run(feeds) for one in (payload, plain))
    np.testing.assert_array_equal(given["second"], wanted["second"])


def test_what_only_moves_values_is_made_integer(tmp_path: Path) -> None:
    network = Network()
    made = network.input([1, 4, 4, 8], "float32")
    steps: list[tuple[str, list[int], list[int], Any]] = [
        ("DEPTH_TO_SPACE", [], [1, 8, 8, 2], options("DepthToSpace", blockSize=2)),
        ("REVERSE_V2", [network.tensor("back", **ints([1]))], [1, 8, 8, 2], None),
        ("TILE", [network.tensor("times", **ints([1, 1, 2, 1]))], [1, 8, 16, 2], None),
        ("REDUCE_MAX", [network.tensor("of", **ints([2]))], [1, 8, 2], None),
    ]
    for op, more, shape, how in steps:
        made = network.op(op, [made, *more], network.tensor(op, shape, "float32"), how)
    images = np.random.default_rng(0).uniform(-2, 2, (128, 4, 4, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=images)

    facts = _compiled(
        network.bytes(made), tmp_path, "coral-edgetpu", calibration=str(tmp_path / "data.npz")
    )

    assert facts["ops"] == {"total": 4, "accelerated": 4}
    assert any("DEPTH_TO_SPACE and REVERSE_V2 written out" in note for note in facts["notes"])


def test_what_stays_float_is_told_by_name_with_the_way_out(tmp_path: Path) -> None:
    network = Network()
    source = network.input([1, 4], "float32")
    axis = network.tensor("axis", [], "int32", 1)
    made = network.op("CUMSUM", [source, axis], network.tensor("out", [1, 4], "float32"))
    np.savez(tmp_path / "data.npz", inputs=np.eye(4, dtype=np.float32))

    with pytest.raises(
        AssertionError, match=r"CUMSUM \(output of shape \[1, 4\]\) would stay float. R"
    ):
        _compiled(
            network.bytes(made), tmp_path, "cortex-m7", calibration=str(tmp_path / "data.npz")
        )


@pytest.mark.parametrize(
    ("pads", "crops", "made"),
    [
        pytest.param([0, 0], [0, 0], ["CONV_2D"], id="not padded"),
        pytest.param([2, 2], [0, 0], ["CONV_2D"], id="as the convolution pads itself"),
        pytest.param([4, 2], [1, 1], ["PAD", "CONV_2D"], id="padded and cropped"),
    ],
)
def test_a_convolution_between_space_and_batch_is_a_dilated_one(
    pads: list[int], crops: list[int], made: list[str], tmp_path: Path
) -> None:
    network, draw = Network(), np.random.default_rng(0)
    wide = (6 + sum(pads)) // 2
    end = 2 * (wide - 2) - sum(crops)
    blocks = network.tensor("blocks", **ints([2, 2]))
    edges = [
        network.tensor(name, [2, 2], "int32", [both, both])
        for name, both in (("pads", pads), ("crops", crops))
    ]
    weights = network.tensor("w", [4, 3, 3, 2], "float32", draw.standard_normal((4, 3, 3, 2)))
    bias = network.tensor("b", [4], "float32", draw.standard_normal(4))
    source = network.input([1, 6, 6, 2], "float32")
    spread = network.tensor("spread", [4, wide, wide, 2], "float32")
    network.op("SPACE_TO_BATCH_ND", [source, blocks, edges[0]], spread)
    dense = network.tensor("dense", [4, wide - 2, wide - 2, 4], "float32")
    how = options("Conv2D", strideH=1, strideW=1, padding=schema.Padding.VALID)
    network.op("CONV_2D", [spread, weights, bias], dense, how)
    out = network.tensor("out", [1, end, end, 4], "float32")
    payload = network.bytes(network.op("BATCH_TO_SPACE_ND", [dense, blocks, edges[1]], out))
    rows = draw.standard_normal((128, 6, 6, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=rows)

    one = with_dilations(payload)
    wanted, given = (load_session(p, "litert").run({"in": rows[:1]})["out"] for p in (payload, one))
    data = str(tmp_path / "data.npz")
    facts = _compiled(payload, tmp_path, "ethos-u55-128", calibration=data)

    model = tflite.parse(one, "m")
    assert [tflite.op_name(model, op) for op in model.subgraphs[0].operators] == made
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert facts["ops"] == {"total": 3, "accelerated": 3}
