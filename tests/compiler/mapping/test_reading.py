"""Reading model files: the same as the schema's own classes read, and nothing of a hostile file."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_kit import DATA, Network, options, relu

from edgec_compiler import tflite
from edgec_compiler.errors import CompilerError, ModelFileError, UsageError
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.flatbuffer import Flatbuffer, FlatbufferError
from edgec_compiler.mapping.opening import read_graph
from edgec_compiler.mapping.tflite_facts import OPTIONS
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import load

REAL = sorted(DATA.glob("*/*.tflite"))
FIELDS = {  # our words -> the schema's
    "stride_w": "strideW", "stride_h": "strideH", "dilation_w": "dilationWFactor",
    "dilation_h": "dilationHFactor", "kernel_w": "filterWidth", "kernel_h": "filterHeight",
    "depth_multiplier": "depthMultiplier", "axis": "axis", "keep_dims": "keepDims",
    "align_corners": "alignCorners", "half_pixel_centers": "halfPixelCenters",
    "keep_num_dims": "keepNumDims",
}  # fmt: skip


@pytest.mark.skipif(not REAL, reason="needs real models: set EDGEC_TEST_DATA")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_files_are_read_as_the_schema_reads_them(path: Path) -> None:
    ours = read_tflite(path.read_bytes(), path.name)
    theirs = tflite.parse(path.read_bytes(), path.name)
    graph = theirs.subgraphs[0]

    assert [t.name for t in ours.tensors] == [tflite.tensor_name(t) for t in graph.tensors]
    assert [t.dtype for t in ours.tensors] == [tflite.type_name(t) for t in graph.tensors]
    assert [t.constant for t in ours.tensors] == [
        tflite.is_constant(theirs, t) for t in graph.tensors
    ]
    for mine, other in zip(ours.operators, graph.operators, strict=True):
        assert mine.op == tflite.op_name(theirs, other)
        assert list(mine.inputs) == [i for i in other.inputs if i != -1]
        for option in OPTIONS.get(mine.op, ()):
            if option.fact in FIELDS and hasattr(other.builtinOptions, FIELDS[option.fact]):
                stored = getattr(other.builtinOptions, FIELDS[option.fact])
                assert mine.facts[option.fact] == stored, (mine.op, option.fact)


def small() -> bytes:
    network = Network()
    shape = [1, 4, 4, 8]
    a = relu(network, network.input(shape), "a", shape)
    b = network.op("ADD", [a, a], network.tensor("b", shape), options("Add"))
    return network.bytes(b)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 10_000),
)
def test_a_damaged_file_is_refused_or_checked_and_nothing_else(
    changes: list[tuple[int, int]], cut: int
) -> None:
    payload = bytearray(small())
    for place, value in changes:
        payload[8 + place % (len(payload) - 8)] = value
    payload = payload[: 8 + cut % len(payload)] if cut % 3 == 0 else payload

    with contextlib.suppress(ModelFileError):
        check(read_tflite(bytes(payload), "x"), load("coral-edgetpu"))


def test_tables_that_are_shared_a_million_times_are_refused() -> None:
    count = 300_000
    table = struct.pack("<HHH", 6, 8, 4) + b"\0\0" + struct.pack("<iI", 8, 4)  # vtable, table
    vector = struct.pack("<I", count)
    head = struct.pack("<I4s", 8 + 8, b"TFL3")
    payload = (
        head
        + table
        + vector
        + b"".join(struct.pack("<I", 2**32 - (4 * i + 12)) for i in range(count))
    )
    file = Flatbuffer(payload, b"TFL3")

    with pytest.raises(FlatbufferError):
        [file.tables(one, 0) for one in file.tables(file.root(), 0)]


def test_weights_that_hundreds_of_operators_share_are_read_once() -> None:
    network, shape = Network(), [1, 128]
    weights = network.tensor("w", [128, 128], "float32", np.ones((128, 128)), scale=None)
    at = network.input(shape, "float32")
    for step in range(300):
        made = network.tensor(f"h{step}", shape, "float32", scale=None)
        at = network.op("FULLY_CONNECTED", [at, weights, -1], made, options("FullyConnected"))

    graph = read_tflite(network.bytes(at), "a recurrent layer, written out")

    assert len(graph.operators) == 300


def test_bytes_that_are_no_model_are_refused() -> None:
    for payload in (b"", b"TFL3", b"\0\0\0\0TFL3", b"\xff" * 64, b"\x08\0\0\0TFL3" + b"\xff" * 64):
        with pytest.raises(ModelFileError):
            read_tflite(payload, "x")


def test_what_has_no_operators_yet_is_sent_to_the_compiler(tmp_path: Path) -> None:
    program = tmp_path / "net.py"
    program.write_text("def make(): ...\n")

    with pytest.raises(UsageError, match="compile it"):
        read_graph(f"{program}:make")


def test_a_damaged_onnx_file_is_refused_by_the_reading_process(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\x08\x07\x12\xff\xff\xff\xff\x0f" + bytes(range(200)))

    with pytest.raises(CompilerError):
        read_graph(str(path))
