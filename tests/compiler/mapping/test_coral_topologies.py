"""Which operators of whole networks the Edge TPU gets: the shapes of real models, made small."""

from collections.abc import Callable

import pytest
from tflite_kit import Network, options, relu

from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import load

CORAL = load("coral-edgetpu")


def on_cpu(payload: bytes) -> list[str]:
    """Return what is not mapped, in file order."""
    ops = check(read_tflite(payload, "test"), CORAL).ops
    return [verdict.op for verdict in ops if verdict.on == "cpu"]


def reasons(payload: bytes) -> list[str | None]:
    return [verdict.reason for verdict in check(read_tflite(payload, "test"), CORAL).ops]


def detector() -> bytes:
    """Heads of an int8 SSD: boxes and scores go to float and to the custom operator."""
    network = Network()
    body = relu(network, network.input([1, 8, 8, 16]), "body", [1, 8, 8, 16])
    ends = []
    for name, width in (("boxes", 4), ("scores", 91)):
        parts = []
        for level, cells in enumerate((64, 16)):
            head = relu(network, body, f"{name}{level}", [1, cells, width])
            parts.append(network.op("RESHAPE", [head], network.tensor("r", [1, cells, width])))
        joined = network.tensor(name, [1, 80, width])
        network.op("CONCATENATION", parts, joined, options("Concatenation", axis=1), 2)
        ends.append(joined)
    scores = network.op("LOGISTIC", [ends[1]], network.tensor("p", [1, 80, 91]), version=2)
    floats = [
        network.op("DEQUANTIZE", [end], network.tensor("f", [1, 80, 4], "float32"), version=2)
        for end in (ends[0], scores)
    ]
    anchors = network.tensor("anchors", [80, 4], "float32", [[0.0] * 4] * 80)
    out = network.tensor("out", [1, 10, 4], "float32")
    network.op("TFLite_Detection_PostProcess", [*floats, anchors], out)
    return network.bytes(out)


def pyramid() -> bytes:
    """A feature pyramid that enlarges by stacking, as TensorFlow's detection models do."""
    network = Network()
    top = relu(network, network.input([1, 4, 4, 8]), "top", [1, 4, 4, 8])
    side = relu(network, top, "side", [1, 8, 8, 8])
    wide = network.tensor("wide", [1, 4, 4, 2, 8])
    network.op("PACK", [top, top], wide, options("Pack", valuesCount=2, axis=3), 2)
    high = network.tensor("high", [1, 4, 2, 4, 2, 8])
    network.op("PACK", [wide, wide], high, options("Pack", valuesCount=2, axis=2), 2)
    large = network.op("RESHAPE", [high], network.tensor("large", [1, 8, 8, 8]))
    added = network.op("ADD", [side, large], network.tensor("s", [1, 8, 8, 8]), options("Add"), 2)
    low = relu(network, added, "low", [1, 8, 8, 8])
    other = relu(network, side, "other", [1, 8, 8, 8])
    return network.bytes(low, other)


def keypoints() -> bytes:
    """A pose model with a CAST head and positions found by ARG_MAX, and what only joins later."""
    network = Network()
    head = network.tensor("head", [1, 6, 6, 8])
    network.op("CAST", [network.input([1, 6, 6, 8], "int32")], head)
    body = relu(network, head, "body", [1, 6, 6, 8])
    sizes = network.tensor("sizes", [2], "int32", [12, 12])
    large = network.tensor("large", [1, 12, 12, 8])
    network.op("RESIZE_BILINEAR", [body, sizes], large, options("ResizeBilinear"), 3)
    heat = network.op("LOGISTIC", [large], network.tensor("heat", [1, 12, 12, 8]), version=2)
    flat = network.op("RESHAPE", [heat], network.tensor("flat", [1, 144, 8]))
    axis = network.tensor("axis", [1], "int32", [1])
    best = network.op("ARG_MAX", [flat, axis], network.tensor("best", [1, 8], "int32"))
    width = network.tensor("width", [1], "int32", [12])
    row = network.op("FLOOR_DIV", [best, width], network.tensor("row", [1, 8], "int32"))
    offset = relu(network, large, "offset", [1, 12, 12, 8])
    found = network.op("GATHER_ND", [offset, row], network.tensor("found", [1, 8]))
    out = network.op("DEQUANTIZE", [found], network.tensor("out", [1, 8], "float32"))
    return network.bytes(out)


def recurrent() -> bytes:
    """An LSTM between a reshape and a classifier; its states are 8-bit and 16-bit variables."""
    network = Network()
    rows = network.op("RESHAPE", [network.input([1, 28, 28, 1])], network.tensor("x", [1, 28, 28]))
    state = network.tensor("state", [1, 20])
    made = network.tensor("made", [1, 28, 20])
    network.op("UNIDIRECTIONAL_SEQUENCE_LSTM", [rows, state], made)
    flat = network.op("RESHAPE", [made], network.tensor("flat", [1, 560]))
    return network.bytes(
        network.op("SOFTMAX", [flat], network.tensor("p", [1, 560]), options("Softmax"), 2)
    )


def requantised() -> bytes:
    """uint8 at the ends, int8 inside, a requantisation between two branches."""
    network = Network()
    shape = [1, 4, 4, 8]
    x = network.op("QUANTIZE", [network.input(shape, "uint8")], network.tensor("x", shape))
    a = relu(network, x, "a", shape)
    b = network.op("QUANTIZE", [a], network.tensor("b", shape, scale=0.25))
    c = network.op("ADD", [a, b], network.tensor("c", shape), options("Add"), 2)
    return network.bytes(network.op("QUANTIZE", [c], network.tensor("y", shape, "uint8")))


BEHIND = ["FLOOR_DIV", "GATHER_ND", "DEQUANTIZE"]
NETWORKS: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "detector": (detector, ["DEQUANTIZE", "DEQUANTIZE", "TFLite_Detection_PostProcess"]),
    "pyramid": (pyramid, ["PACK", "PACK", "RESHAPE", "ADD", "RELU"]),
    "keypoints": (keypoints, ["CAST", "ARG_MAX", *BEHIND]),
    "recurrent": (recurrent, []),
    "requantised": (requantised, []),
}


@pytest.mark.parametrize(("network", "refused"), NETWORKS.values(), ids=NETWORKS)
def test_a_network_leaves_just_this_on_the_cpu(
    network: Callable[[], bytes], refused: list[str]
) -> None:
    assert on_cpu(network()) == refused


@pytest.mark.parametrize("network", [network for network, _ in NETWORKS.values()], ids=NETWORKS)
def test_nothing_mapped_lies_behind_what_lies_behind_a_mapped_operator(
    network: Callable[[], bytes],
) -> None:
    graph = read_tflite(network(), "test")
    mapped = [verdict.on == "npu" for verdict in check(graph, CORAL).ops]
    left: set[int] = set()  # tensors that were on the accelerator and came off it
    inside: set[int] = set()
    for operator, on in zip(graph.operators, mapped, strict=True):
        reads = set(operator.inputs)
        assert not (on and reads & left)
        if on:
            inside.update(operator.outputs)
        elif reads & (inside | left):
            left.update(operator.outputs)


def test_whatever_stays_on_the_cpu_says_why_with_a_tensor_and_its_shape() -> None:
    said = [reason for reason in reasons(keypoints()) if reason is not None]

    assert len(said) == 5
    assert all("'" in reason and "[1x" in reason for reason in said)


def test_only_the_main_graph_of_a_file_is_counted() -> None:
    network = Network()
    a = relu(network, network.input([1, 4]), "a", [1, 4])
    main = network.graph
    other = Network()
    relu(other, other.input([1, 4]), "b", [1, 4])
    network.model.subgraphs = [main, other.graph]

    assert len(check(read_tflite(network.bytes(a), "test"), CORAL).ops) == 1
