"""Safe fixes: applied, proven by the runtime, and dropped where the proof fails."""

import numpy as np
import pytest
from tflite_kit import DATA, Network, options, relu

from edgec_compiler import tflite
from edgec_compiler.errors import ModelFileError
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.proof import prove
from edgec_compiler.mapping.rewriting import rewrite
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import load
from edgec_runtime.session import load_session

CORAL, PI = load("coral-edgetpu"), load("rpi4")


def one_pixel() -> bytes:
    network = Network()
    a = relu(network, network.input([1, 1, 1, 4]), "a", [1, 1, 1, 4])
    sizes = network.tensor("sizes", [2], "int32", [5, 7])
    b = network.tensor("b", [1, 5, 7, 4])
    network.op("RESIZE_BILINEAR", [a, sizes], b, options("ResizeBilinear", alignCorners=True), 2)
    return network.bytes(relu(network, b, "c", [1, 5, 7, 4]))


def operators(payload: bytes) -> list[str]:
    return [operator.op for operator in read_tflite(payload, "x").operators]


def test_a_resize_of_one_pixel_becomes_a_tile() -> None:
    rewriting = rewrite(one_pixel(), PI, "x")

    assert operators(rewriting.payload) == ["RELU", "TILE", "RELU"]
    assert rewriting.done == ("operator 1, RESIZE_BILINEAR making 'b' of one pixel, became TILE",)
    assert rewriting.proven >= 8


def test_for_the_edge_tpu_it_becomes_what_that_takes_and_all_is_mapped() -> None:
    before = check(read_tflite(one_pixel(), "x"), CORAL)

    rewriting = rewrite(one_pixel(), CORAL, "x")

    after = check(read_tflite(rewriting.payload, "x"), CORAL)
    assert (before.accelerated, after.accelerated, after.total) == (1, 3, 3)
    assert prove(one_pixel(), rewriting.payload).equal


def test_a_quantized_dimension_that_is_no_axis_is_put_right() -> None:
    network = Network()
    a = relu(network, network.input([1, 4]), "a", [1, 4])
    model = tflite.parse(network.bytes(a), "x")
    model.subgraphs[0].tensors[a].quantization.quantizedDimension = 3
    broken = tflite.serialise(model)
    with pytest.raises(Exception, match="quantized_dimension"):
        load_session(broken, "litert")

    rewriting = rewrite(broken, PI, "x")

    session = load_session(rewriting.payload, "litert")
    made = session.run({"in": np.array([[-1, 0, 1, 2]], np.int8)})
    assert made["a"].tolist() == [[0, 0, 1, 2]]
    assert rewriting.done == ("repaired the quantized_dimension of 1 tensors",)


def test_operators_that_change_nothing_are_taken_out() -> None:
    network = Network()
    a = relu(network, network.input([1, 4]), "a", [1, 4])
    b = network.op("QUANTIZE", [a], network.tensor("b", [1, 4]))
    order = network.tensor("order", [2], "int32", [0, 1])
    c = network.op("TRANSPOSE", [b, order], network.tensor("c", [1, 4]))

    rewriting = rewrite(network.bytes(relu(network, c, "d", [1, 4])), PI, "x")

    assert operators(rewriting.payload) == ["RELU", "RELU"]
    assert len(rewriting.done) == 2


def test_a_requantisation_is_kept() -> None:
    network = Network()
    b = network.tensor("b", [1, 4], scale=0.25)
    network.op("QUANTIZE", [network.input([1, 4])], b)
    payload = network.bytes(relu(network, b, "c", [1, 4]))

    rewriting = rewrite(payload, PI, "x")

    assert (rewriting.payload, rewriting.done) == (payload, ())


def padded(op: str, dtype: str, value: int) -> bytes:
    network = Network()
    a = relu(network, network.input([1, 2, 2, 4]), "a", [1, 2, 2, 4])
    paddings = network.tensor("paddings", [4, 2], dtype, [[0, 0], [1, 1], [1, 1], [0, 0]])
    more = [network.tensor("value", [1], "int8", [value])] if op == "PADV2" else []
    b = network.op(op, [a, paddings, *more], network.tensor("b", [1, 4, 4, 4]), version=2)
    return network.bytes(relu(network, b, "c", [1, 4, 4, 4]))


def test_paddings_get_the_form_that_the_edge_tpus_compiler_reads() -> None:
    rewriting = rewrite(padded("PADV2", "int64", 0), CORAL, "x")

    graph = read_tflite(rewriting.payload, "x")
    assert [operator.op for operator in graph.operators] == ["RELU", "PAD", "RELU"]
    assert graph.operators[1].facts["paddings_dtype"] == "int32"
    assert check(graph, CORAL).accelerated == 3
    assert len(rewriting.done) == 2
    assert rewriting.proven >= 8


def test_padding_with_another_value_than_zero_is_kept() -> None:
    assert operators(rewrite(padded("PADV2", "int32", -7), CORAL, "x").payload)[1] == "PADV2"


def test_models_that_differ_are_told_apart() -> None:
    network, other = Network(), Network()
    first = network.bytes(relu(network, network.input([1, 4]), "a", [1, 4]))
    source = other.input([1, 4])
    second = other.bytes(other.op("RELU6", [source], other.tensor("a", [1, 4])))

    proof = prove(first, second)

    assert not proof.equal
    assert proof.problem == "output 'a' differs"


def test_a_hostile_file_takes_nothing_down() -> None:
    with pytest.raises(ModelFileError):
        rewrite(one_pixel()[:-200], PI, "x")


@pytest.mark.skipif(not DATA.is_dir(), reason="needs real models: set EDGEC_TEST_DATA")
def test_a_real_segmentation_model_gains_five_operators() -> None:
    path = DATA / "coral" / "deeplabv3_mnv2_dm05_pascal_quant.tflite"

    rewriting = rewrite(path.read_bytes(), CORAL, path.name)

    mapping = check(read_tflite(rewriting.payload, "x"), CORAL)
    assert (mapping.accelerated, mapping.total) == (69, 71)
    assert rewriting.proven >= 8
    assert not rewriting.dropped
