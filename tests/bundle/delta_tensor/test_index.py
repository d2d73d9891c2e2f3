"""The parsers find what the file's own library finds, and nothing outside of any bytes."""

import numpy as np
import onnx
import pytest
from delta_models import DIGITS, Weights, field, onnx_file, random_data, tflite_file, varint
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgec_bundle.delta.tensor.index import tensors_of
from edgec_bundle.delta.tensor.model import NotAModelError, Tensor, without_overlaps
from edgec_bundle.delta.tensor.onnx import onnx_tensors
from edgec_bundle.delta.tensor.tflite import tflite_tensors

CHANCE = np.random.default_rng(5)
MODEL = [
    Weights("a", "float32", (2, 3), random_data("float32", 6, CHANCE)),
    Weights("b", "int8", (4, 2, 3, 3), random_data("int8", 72, CHANCE), bytes(range(1, 17))),
    Weights("c", "int4", (6,), random_data("int4", 6, CHANCE)),
    Weights("d", "float16", (9,), random_data("float16", 9, CHANCE)),
]


def test_an_onnx_file_has_the_initializers_that_onnx_says() -> None:
    path = DIGITS / "1.0.0.onnx"
    data = path.read_bytes()

    found = {one.name: data[one.offset : one.end] for one in onnx_tensors(data)}

    expected = {
        one.name: numpy_helper.to_array(one).tobytes()
        for one in onnx.load(path).graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT and (one.raw_data or one.float_data)
    }
    assert expected
    assert found == expected


def test_values_in_float_data_and_in_constant_nodes_are_found() -> None:
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    value = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [2], [4.0, 5.0])
    node = onnx.helper.make_node("Constant", [], ["c"], value=value)
    small = onnx.helper.make_tensor("s", onnx.TensorProto.INT8, [2], [-1, 5])  # varints
    graph = onnx.helper.make_graph([node], "g", [], [], [weight, small])
    data = onnx.helper.make_model(graph).SerializeToString()

    found = {one.name: data[one.offset : one.end] for one in onnx_tensors(data)}

    assert found == {
        "w": np.array([1, 2, 3], "<f4").tobytes(),
        "v": np.array([4, 5], "<f4").tobytes(),
    }


def test_values_inside_of_operators_and_functions_are_found() -> None:
    def value(name: str, number: float) -> onnx.TensorProto:
        return onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [number])

    def branch(name: str, inner: list[onnx.NodeProto], number: float) -> onnx.GraphProto:
        return onnx.helper.make_graph(inner, name, [], [], [value(name, number)])

    deep = onnx.helper.make_node("Loop", [], [], body=branch("c", [], 3))
    then, other = branch("a", [deep], 1), branch("b", [], 2)
    node = onnx.helper.make_node("If", ["x"], [], then_branch=then, else_branch=other)
    constant = onnx.helper.make_node("Constant", [], ["k"], value=value("f", 4))
    opset = [onnx.helper.make_opsetid("", 17)]
    function = onnx.helper.make_function("own", "f", [], ["k"], [constant], opset)
    graph = onnx.helper.make_graph([node], "g", [], [])
    data = onnx.helper.make_model(graph, functions=[function]).SerializeToString()

    found = {one.name: data[one.offset : one.end] for one in onnx_tensors(data)}

    numbers = {"a": 1, "b": 2, "c": 3, "f": 4}
    assert found == {name: np.array([one], "<f4").tobytes() for name, one in numbers.items()}


def test_graphs_in_graphs_without_end_are_no_model_or_have_an_end() -> None:
    graph = b""
    for _ in range(2_000):
        graph = field(1, field(5, field(6, graph)))
    data = varint(1 << 3) + varint(9) + field(7, graph)

    assert tensors_of(data) == ()


def test_a_sparse_tensor_is_found_without_its_shape() -> None:
    data = tflite_file([Weights("w", "float16", (40, 10), bytes(range(96)))])

    found = [(one.dtype, one.shape, data[one.offset : one.end]) for one in tensors_of(data)]

    assert found == [("float16", (48,), bytes(range(96)))]


@pytest.mark.parametrize("write", [onnx_file, tflite_file])
def test_each_tensor_is_found_where_it_lies(write: object) -> None:
    data = write(MODEL)  # type: ignore[operator]

    found = {one.name: one for one in tensors_of(data)}

    for one in MODEL:
        tensor = found[one.name]
        assert data[tensor.offset : tensor.end] == one.data
        assert (tensor.dtype, tensor.shape) == (one.dtype, one.shape)
    scale = found["b_scale" if write is onnx_file else "b/scale"]
    assert data[scale.offset : scale.end] == MODEL[1].scales


def test_other_bytes_are_no_model() -> None:
    for data in (b"", b"TFL3", b"\x1c\0\0\0TFL3", b"PK\x03\x04", bytes(100), b"\x08\x09:\x01\x3a"):
        assert tensors_of(data) == ()
        for parser in (onnx_tensors, tflite_tensors):
            with pytest.raises(NotAModelError):
                parser(data)


@given(st.data(), st.sampled_from([onnx_file(MODEL), tflite_file(MODEL)]))
def test_damaged_files_never_lead_outside_of_their_bytes(data: st.DataObject, file: bytes) -> None:
    octets = bytearray(file)
    for _ in range(data.draw(st.integers(1, 8))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(octets[: data.draw(st.integers(0, len(octets)))])

    for damaged in (bytes(octets), cut):
        end = 0
        for one in tensors_of(damaged):
            assert end <= one.offset <= one.end <= len(damaged)
            end = one.end


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_are_no_model(data: bytes) -> None:
    tensors_of(data)
    tensors_of(data[:4] + b"TFL3" + data[8:])


def test_of_tensors_that_share_bytes_one_is_kept() -> None:
    def at(offset: int, size: int) -> Tensor:
        return Tensor("t", "int8", (size,), offset, size)

    kept = without_overlaps([at(10, 5), at(0, 4), at(2, 3), at(12, 9), at(15, 1), at(0, 2)])

    assert [(one.offset, one.size) for one in kept] == [(0, 4), (10, 5), (15, 1)]


def test_a_vector_of_many_tables_over_the_same_bytes_is_refused_soon() -> None:
    data = bytearray(tflite_file(MODEL))
    size = len(data)
    count_at = bytes(data).find((5).to_bytes(4, "little"))  # of buffers or the like
    data[count_at : count_at + 4] = (0x7FFFFFFF).to_bytes(4, "little")

    assert len(tensors_of(bytes(data))) <= size
