"""What the Edge TPU's compiler maps: real pairs, and each rule that was seen, one by one."""

import json
from typing import Any

import numpy as np
import pytest
from tflite_kit import DATA, Network, filled, ints, one, options, pads, relu

from edgec_compiler.mapping.checking import Mapping, check
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import load

CORAL = load("coral-edgetpu")
PAIRS = sorted((DATA / "coral").glob("*.edgetpu_mapping.json"))


def mapped(payload: bytes) -> Mapping:
    return check(read_tflite(payload, "test"), CORAL)


def places(payload: bytes) -> list[str]:
    return [verdict.on for verdict in mapped(payload).ops]


@pytest.mark.skipif(not PAIRS, reason="needs real models: set EDGEC_TEST_DATA")
@pytest.mark.parametrize("truth", PAIRS, ids=lambda path: path.name.split(".")[0])
def test_every_operator_of_a_real_pair_is_predicted(truth: Any) -> None:
    expected = json.loads(truth.read_text())
    model = truth.with_name(truth.name.replace(".edgetpu_mapping.json", ".tflite"))

    mapping = mapped(model.read_bytes())

    found = [(v.index, v.op, v.output, v.on == "npu") for v in mapping.ops]
    assert found == [(o["index"], o["op"], o["output"], o["edgetpu"]) for o in expected["ops"]]
    assert (mapping.total, mapping.accelerated) == (expected["total"], expected["mapped"])


def test_what_lies_behind_a_refused_operator_is_not_mapped_and_is_told_why() -> None:
    network = Network()
    shape = [1, 4, 4, 8]
    a = relu(network, network.input(shape), "a", shape)
    b = network.op("LEAKY_RELU", [a], network.tensor("b", shape))
    c = relu(network, b, "c", shape)

    verdicts = mapped(network.bytes(c)).ops

    assert [v.on for v in verdicts] == ["npu", "cpu", "cpu"]
    assert verdicts[1].reason is not None
    assert verdicts[1].reason.startswith(
        "Operation not supported: LEAKY_RELU making 'b' int8[1x4x4x8]"
    )
    assert "PRELU" in str(verdicts[1].fix)
    assert str(verdicts[2].reason).startswith("More than one subgraph is not supported: 'c'")
    assert "operator 1, LEAKY_RELU making 'b'" in str(verdicts[2].reason)


def test_a_branch_that_does_not_depend_on_the_refused_operator_stays_mapped() -> None:
    network = Network()
    shape = [1, 4, 4, 8]
    a = relu(network, network.input(shape), "a", shape)
    b = network.op("LEAKY_RELU", [a], network.tensor("b", shape))
    c = relu(network, a, "c", shape)
    d = network.op("ADD", [b, c], network.tensor("d", shape), options("Add"))

    assert places(network.bytes(d)) == ["npu", "cpu", "npu", "cpu"]


def test_a_float_head_stays_on_the_cpu_and_everything_behind_it_is_mapped() -> None:
    network = Network()
    shape = [1, 4, 4, 8]
    a = network.op("QUANTIZE", [network.input(shape, "float32")], network.tensor("a", shape))
    b = relu(network, a, "b", shape)
    c = network.op("DEQUANTIZE", [b], network.tensor("c", shape, "float32"))

    verdicts = mapped(network.bytes(c)).ops

    assert [v.on for v in verdicts] == ["cpu", "npu", "cpu"]
    assert str(verdicts[0].reason).startswith("Operation is otherwise supported, but not mapped")
    assert str(verdicts[2].reason).startswith("Operation is working on an unsupported data type")


def test_the_order_in_the_file_does_not_decide_the_region() -> None:
    network = Network()
    shape = [1, 4, 4, 8]
    a, b = network.tensor("a", shape), network.tensor("b", shape)
    relu_of_a = network.op  # the reader of `a` comes first in the file
    relu_of_a("RELU", [a], b)
    network.op("RELU", [network.input(shape)], a)

    assert places(network.bytes(b)) == ["npu", "npu"]


def test_detection_boxes_are_picked_on_the_host() -> None:
    network = Network()
    boxes = relu(network, network.input([1, 10, 4]), "boxes", [1, 10, 4])
    out = network.op(
        "TFLite_Detection_PostProcess", [boxes], network.tensor("o", [1, 10, 4], "float32")
    )

    verdicts = mapped(network.bytes(out)).ops

    assert [(v.op, v.on) for v in verdicts] == [
        ("RELU", "npu"),
        ("TFLite_Detection_PostProcess", "cpu"),
    ]
    assert str(verdicts[1].reason).startswith("Operation is working on an unsupported data type")


def resize(old: int, new: int, channels: int = 8) -> bytes:
    network = Network()
    source = network.input([1, old, old, channels])
    sizes = network.tensor("sizes", [2], "int32", [new, new])
    out = network.tensor("out", [1, new, new, channels])
    network.op("RESIZE_BILINEAR", [source, sizes], out, options("ResizeBilinear"), version=3)
    return network.bytes(out)


@pytest.mark.parametrize(
    ("old", "new", "on"),
    [(1, 33, "cpu"), (33, 513, "cpu"), (6, 12, "npu"), (12, 24, "npu"), (24, 48, "npu")],
)
def test_a_bilinear_resize_is_judged_by_its_scale(old: int, new: int, on: str) -> None:
    assert places(resize(old, new)) == [on]


REDUCER, SLICE = options("Reducer"), options("StridedSlice")
JOIN = options("Concatenation", axis=3)
WEIGHTS = {"shape": [4, 3, 3, 8], "dtype": "int8", "values": np.ones((4, 3, 3, 8))}
LIMITS = {
    "a convolution": (
        one(
            "CONV_2D",
            [1, 8, 8, 8],
            [1, 8, 8, 4],
            more=[WEIGHTS],
            options=options("Conv2D", strideW=1, strideH=1),
        ),
        "npu",
    ),
    "unequal dilation": (
        one(
            "CONV_2D",
            [1, 8, 8, 8],
            [1, 8, 8, 4],
            more=[WEIGHTS],
            options=options("Conv2D", dilationWFactor=2),
        ),
        "cpu",
    ),
    "a newer convolution": (
        one("CONV_2D", [1, 8, 8, 8], [1, 8, 8, 4], more=[WEIGHTS], version=6),
        "cpu",
    ),
    "four large dimensions": (one("RELU", [2, 8, 8, 8], [2, 8, 8, 8]), "cpu"),
    "a pool with an activation": (
        one(
            "MAX_POOL_2D",
            [1, 8, 8, 8],
            [1, 4, 4, 8],
            options=options("Pool2D", fusedActivationFunction=1),
        ),
        "cpu",
    ),
    "a pool": (one("MAX_POOL_2D", [1, 8, 8, 8], [1, 4, 4, 8], options=options("Pool2D")), "npu"),
    "a mean over the image": (
        one("MEAN", [1, 8, 8, 6], [1, 6], more=[ints([1, 2])], options=REDUCER),
        "npu",
    ),
    "a mean over the batch": (
        one("MEAN", [1, 8, 8, 8], [8, 8, 8], more=[ints([0])], options=REDUCER),
        "cpu",
    ),
    "a mean over 6 channels": (
        one("MEAN", [1, 8, 8, 6], [1, 8, 8], more=[ints([-1])], options=REDUCER),
        "cpu",
    ),
    "a mean over 8 channels": (
        one("MEAN", [1, 8, 8, 8], [1, 8, 8], more=[ints([3])], options=REDUCER),
        "npu",
    ),
    "a mean over a large image": (
        one("MEAN", [1, 256, 128, 4], [1, 4], more=[ints([1, 2])], options=REDUCER),
        "cpu",
    ),
    "strides of two": (
        one(
            "STRIDED_SLICE",
            [1, 8, 8, 8],
            [1, 4, 8, 8],
            more=[ints([0] * 4), ints([1, 8, 8, 8]), ints([1, 2, 1, 1])],
            options=SLICE,
        ),
        "cpu",
    ),
    "a plain slice": (
        one(
            "STRIDED_SLICE",
            [1, 8, 8, 8],
            [1, 4, 8, 8],
            more=[ints([0] * 4), ints([1, 4, 8, 8]), ints([1] * 4)],
            options=SLICE,
        ),
        "npu",
    ),
    "a new axis": (
        one(
            "STRIDED_SLICE",
            [8, 8],
            [1, 8, 8],
            more=[ints([0] * 2), ints([8, 8]), ints([1] * 2)],
            options=options("StridedSlice", newAxisMask=1),
        ),
        "cpu",
    ),
    "padding of the batch": (one("PAD", [1, 8, 8], [3, 8, 8], more=[pads([1, 0, 0])]), "cpu"),
    "padding of the image": (
        one("PAD", [1, 8, 8, 4], [1, 10, 10, 4], more=[pads([0, 1, 1, 0])]),
        "npu",
    ),
    "zeros joined": (
        one("CONCATENATION", [1, 8, 8, 4], [1, 8, 8, 8], more=[filled(0)], options=JOIN),
        "npu",
    ),
    "ones joined": (
        one("CONCATENATION", [1, 8, 8, 4], [1, 8, 8, 8], more=[filled(1)], options=JOIN),
        "cpu",
    ),
    "a softmax of 16,385": (one("SOFTMAX", [1, 16385], [1, 16385]), "cpu"),
    "a softmax of 16,384, mapped in ricardodeazambuja/LibrEdgeTPU": (
        one("SOFTMAX", [1, 16384], [1, 16384]),
        "npu",
    ),
    "a dilation along a kernel of 3x1, mapped in fredriktegnell/edgetpu-tcn": (
        one(
            "CONV_2D",
            [1, 118, 100, 8],
            [1, 118, 100, 8],
            more=[{"shape": [8, 3, 1, 8], "dtype": "int8", "values": np.ones((8, 3, 1, 8))}],
            options=options("Conv2D", strideW=1, strideH=1, dilationHFactor=4),
            version=3,
        ),
        "npu",
    ),
    "another value than the zero point padded": (
        one(
            "PADV2",
            [1, 8, 8, 4],
            [1, 10, 10, 4],
            more=[pads([0, 1, 1, 0]), {"shape": [1], "values": [-128]}],
        ),
        "cpu",
    ),
    "paddings of 64 bits": (
        one("PAD", [1, 8, 8, 4], [1, 10, 10, 4], more=[pads([0, 1, 1, 0]) | {"dtype": "int64"}]),
        "cpu",
    ),
    "a pixel repeated over an image, mapped in google-coral/test_data": (
        one("TILE", [1, 1, 1, 128], [1, 33, 33, 128], more=[ints([1, 33, 33, 1])]),
        "npu",
    ),
    "a dense layer of a newer converter, refused in a public log": (
        one(
            "FULLY_CONNECTED",
            [1, 8],
            [1, 4],
            more=[{"shape": [4, 8], "dtype": "int8", "values": np.ones((4, 8))}],
            options=options("FullyConnected"),
            version=9,
        ),
        "cpu",
    ),
    "a repeated batch": (one("TILE", [1, 8, 8], [3, 8, 8], more=[ints([3, 1, 1])]), "cpu"),
    "a split into one part": (
        one(
            "SPLIT",
            [1, 8, 8, 8],
            [1, 8, 8, 8],
            more=[ints([0])],
            options=options("Split", numSplits=1),
            last=True,
        ),
        "npu",
    ),
    "a batch of two split": (
        one(
            "SPLIT",
            [2, 8, 8],
            [1, 8, 8],
            more=[ints([0])],
            options=options("Split", numSplits=2),
            last=True,
        ),
        "cpu",
    ),
    "the scores of EfficientDet-Lite2": (
        one("LOGISTIC", [1, 37629, 90], [1, 37629, 90]),
        "npu",
    ),
    "the scores of EfficientDet-Lite3, too large by google-coral/edgetpu 557 and 651": (
        one("LOGISTIC", [1, 49104, 90], [1, 49104, 90]),
        "cpu",
    ),
    "a softmax of 1,001": (one("SOFTMAX", [1, 1001], [1, 1001]), "npu"),
    "argmax": (one("ARG_MAX", [1, 8, 8, 8], [1, 8, 8], dtype="int32", more=[ints([3])]), "cpu"),
    "an unknown size": (one("RELU", [-1, 8, 8], [-1, 8, 8]), "cpu"),
    "an operator of Flex": (one("FlexErf", [1, 8], [1, 8]), "cpu"),
    "requantisation": (one("QUANTIZE", [1, 8], [1, 8], dtype="uint8"), "npu"),
}


@pytest.mark.parametrize(("payload", "on"), LIMITS.values(), ids=LIMITS)
def test_the_limits_of_single_operators(payload: bytes, on: str) -> None:
    (verdict,) = mapped(payload).ops

    assert verdict.on == on
    assert (verdict.reason is None) == (on == "npu")
    assert on == "npu" or verdict.fix


def test_the_reason_names_fact_tensor_and_shape() -> None:
    (verdict,) = mapped(LIMITS["a mean over a large image"][0]).ops

    assert verdict.reason == (
        "Operation is otherwise supported, but not mapped due to some unspecified limitation: "
        "reduced_elements 32768, allowed up to 16384; 'in' int8[1x256x128x4] -> 'out' int8[1x4]"
    )
    assert verdict.fix == (
        "take the mean in two steps: over parts of the image, then over their means"
    )
