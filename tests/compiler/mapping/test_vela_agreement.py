"""The tables of the Ethos-U targets against Vela itself, operator by operator."""

from typing import Any

import numpy as np
import pytest
from tflite_kit import Network, add_one, ints, options, pads

from edgec_compiler.mapping import vela
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import load

IMAGE, SMALL, ROW = [1, 8, 8, 8], [1, 4, 4, 8], [1, 8]
POOL = options("Pool2D", strideW=2, strideH=2, filterWidth=2, filterHeight=2)
WIDE = options("Pool2D", strideW=4, strideH=4, filterWidth=2, filterHeight=2)


def weights(*shape: int) -> dict[str, Any]:
    return {"shape": [*shape], "values": np.ones(shape)}


def bias(size: int) -> dict[str, Any]:
    return {"shape": [size], "dtype": "int32", "values": np.zeros(size)}


def conv(stride: int = 1, dilation: int = 1) -> Any:
    return options(
        "Conv2D",
        strideW=stride,
        strideH=stride,
        dilationWFactor=dilation,
        dilationHFactor=dilation,
    )


def resized(size: int) -> list[dict[str, Any]]:
    return [ints([size, size])]


SAME = [*IMAGE]
ROWS: dict[str, tuple[str, list[int], list[int], dict[str, Any]]] = {
    kind.lower(): (kind, IMAGE, SAME, {})
    for kind in ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "HARD_SWISH", "ABS")
} | {
    "leaky_relu": ("LEAKY_RELU", IMAGE, SAME, {"options": options("LeakyRelu", alpha=0.1)}),
    "elu": ("ELU", IMAGE, SAME, {}),
    "neg": ("NEG", IMAGE, SAME, {}),
    "gelu": ("GELU", IMAGE, SAME, {"options": options("Gelu")}),
    "prelu": ("PRELU", IMAGE, SAME, {"more": [weights(1, 1, 8)]}),
    "add": ("ADD", IMAGE, SAME, {"more": [weights(*IMAGE)], "options": options("Add")}),
    "mul": ("MUL", IMAGE, SAME, {"more": [weights(*IMAGE)], "options": options("Mul")}),
    "sub": ("SUB", IMAGE, SAME, {"more": [weights(*IMAGE)], "options": options("Sub")}),
    "minimum": ("MINIMUM", IMAGE, SAME, {"more": [weights(*IMAGE)]}),
    "maximum": ("MAXIMUM", IMAGE, SAME, {"more": [weights(*IMAGE)]}),
    "requantise": ("QUANTIZE", IMAGE, SAME, {"dtype": "uint8"}),
    "conv": (
        "CONV_2D",
        IMAGE,
        [1, 8, 8, 4],
        {"more": [weights(4, 3, 3, 8), bias(4)], "options": conv(), "version": 3},
    ),
    "conv of stride 2": (
        "CONV_2D",
        IMAGE,
        [1, 4, 4, 4],
        {"more": [weights(4, 3, 3, 8), bias(4)], "options": conv(2), "version": 3},
    ),
    "conv of dilation 2": (
        "CONV_2D",
        IMAGE,
        [1, 8, 8, 4],
        {"more": [weights(4, 3, 3, 8), bias(4)], "options": conv(1, 2), "version": 3},
    ),
    "max pool": ("MAX_POOL_2D", IMAGE, SMALL, {"options": POOL, "version": 2}),
    "average pool": ("AVERAGE_POOL_2D", IMAGE, SMALL, {"options": POOL, "version": 2}),
    "max pool of stride 4": ("MAX_POOL_2D", IMAGE, [1, 2, 2, 8], {"options": WIDE, "version": 2}),
    "max pool of stride 4 that pads": (
        "MAX_POOL_2D",
        [1, 9, 9, 8],
        [1, 3, 3, 8],
        {"options": WIDE, "version": 2},
    ),
    "conv of stride 4 that pads": (
        "CONV_2D",
        [1, 9, 9, 8],
        [1, 3, 3, 4],
        {"more": [weights(4, 3, 3, 8), bias(4)], "options": conv(4), "version": 3},
    ),
    "fully connected": (
        "FULLY_CONNECTED",
        ROW,
        [1, 4],
        {"more": [weights(4, 8), bias(4)], "options": options("FullyConnected"), "version": 4},
    ),
    "softmax": ("SOFTMAX", ROW, ROW, {"options": options("Softmax", beta=1.0), "version": 2}),
    "reshape": ("RESHAPE", IMAGE, [1, 512], {"more": [ints([1, 512])]}),
    "mean over the image": (
        "MEAN",
        IMAGE,
        [1, 1, 1, 8],
        {"more": [ints([1, 2])], "options": options("Reducer", keepDims=True), "version": 2},
    ),
    "mean over channels": (
        "MEAN",
        IMAGE,
        [1, 8, 8, 1],
        {"more": [ints([3])], "options": options("Reducer", keepDims=True), "version": 2},
    ),
    "mean over columns": (
        "MEAN",
        [1, 16, 32],
        [1, 16, 1],
        {"more": [ints([2])], "options": options("Reducer", keepDims=True), "version": 2},
    ),
    "sum": (
        "SUM",
        IMAGE,
        [1, 1, 1, 8],
        {"more": [ints([1, 2])], "options": options("Reducer", keepDims=True), "version": 2},
    ),
    "reduce max": (
        "REDUCE_MAX",
        IMAGE,
        [1, 8, 8, 1],
        {"more": [ints([3])], "options": options("Reducer", keepDims=True), "version": 2},
    ),
    "pad": ("PAD", IMAGE, [1, 10, 10, 8], {"more": [pads([0, 1, 1, 0])], "version": 2}),
    "pad of channels": ("PAD", IMAGE, [1, 8, 8, 10], {"more": [pads([0, 0, 0, 1])], "version": 2}),
    "bilinear to twice": (
        "RESIZE_BILINEAR",
        IMAGE,
        [1, 16, 16, 8],
        {"more": resized(16), "options": options("ResizeBilinear"), "version": 3},
    ),
    "bilinear to thrice": (
        "RESIZE_BILINEAR",
        IMAGE,
        [1, 24, 24, 8],
        {"more": resized(24), "options": options("ResizeBilinear"), "version": 3},
    ),
    "nearest to twice": (
        "RESIZE_NEAREST_NEIGHBOR",
        IMAGE,
        [1, 16, 16, 8],
        {"more": resized(16), "options": options("ResizeNearestNeighbor"), "version": 3},
    ),
    "transpose of an image": (
        "TRANSPOSE",
        IMAGE,
        [1, 8, 8, 8],
        {"more": [ints([0, 3, 1, 2])], "options": options("Transpose"), "version": 2},
    ),
    "transpose of a matrix": (
        "TRANSPOSE",
        [1, 6, 8],
        [1, 8, 6],
        {"more": [ints([0, 2, 1])], "options": options("Transpose"), "version": 2},
    ),
    "slice": ("SLICE", IMAGE, SMALL, {"more": [ints([0] * 4), ints(SMALL)], "version": 2}),
    "strided slice": (
        "STRIDED_SLICE",
        IMAGE,
        SMALL,
        {
            "more": [ints([0] * 4), ints([1, 8, 8, 8]), ints([1, 2, 2, 1])],
            "options": options("StridedSlice"),
            "version": 2,
        },
    ),
    "depth to space": (
        "DEPTH_TO_SPACE",
        IMAGE,
        [1, 16, 16, 2],
        {"options": options("DepthToSpace", blockSize=2), "version": 1},
    ),
    "space to depth": (
        "SPACE_TO_DEPTH",
        IMAGE,
        [1, 4, 4, 32],
        {"options": options("SpaceToDepth", blockSize=2), "version": 1},
    ),
    "gather": (
        "GATHER",
        ROW,
        [2, 8],
        {"more": [ints([0, 0])], "options": options("Gather", axis=0), "version": 2},
    ),
    "tile": ("TILE", [1, 1, 1, 8], SMALL, {"more": [ints([1, 4, 4, 1])], "version": 2}),
    "exp": ("EXP", IMAGE, SAME, {"version": 2}),
    "rsqrt": ("RSQRT", IMAGE, SAME, {"version": 2}),
    "expand dims": ("EXPAND_DIMS", ROW, [1, 1, 8], {"more": [ints([1])]}),
    "squeeze": ("SQUEEZE", [1, 1, 8], ROW, {"options": options("Squeeze", squeezeDims=[1])}),
}


def network(rows: dict[str, tuple[str, list[int], list[int], dict[str, Any]]]) -> bytes:
    """Return one model of independent operators, each from an input to an output of its own."""
    made = Network()
    outputs = [
        add_one(made, kind, [*shape], [*out], **more, name=name)
        for name, (kind, shape, out, more) in rows.items()
    ]
    return made.bytes(*outputs)


@pytest.mark.full
@pytest.mark.skipif(not vela.is_installed(), reason="needs the extra vela")
@pytest.mark.parametrize("target", ["ethos-u55-128", "ethos-u85-256"])
def test_the_table_says_of_every_operator_what_vela_does_with_it(target: str) -> None:
    profile, payload = load(target), network(ROWS)
    (tool,) = profile.tools

    predicted = check(read_tflite(payload, "test"), profile).ops
    real = vela.compile_with_vela(payload, profile, tool).mapping.ops

    assert {v.output: v.on for v in predicted} == {v.output: v.on for v in real}
