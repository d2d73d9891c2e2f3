"""Dilated convolutions of a float TFLite file as one operator each.

TensorFlow spreads the pixels that a dilated convolution looks at over a batch (SPACE_TO_BATCH_ND),
convolves densely and puts them back (BATCH_TO_SPACE_ND). Its converter often leaves it so;
quantisers and accelerators know neither of the two, but every one knows dilation.

1. What is padded and not cropped again is padded by the convolution, if that is its SAME padding.
2. Else a PAD comes before it.

Left alone: sizes that are not in the file, strides, convolutions that pad, results that others read
between the three, and more cropped than was padded.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.convert.parity import check_same

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_VALID, _SAME = schema.Padding.VALID, schema.Padding.SAME


def with_dilations(payload: bytes) -> bytes:
    """Return the model with dilated convolutions; the same bytes if there is nothing to do.

    Raises:
        ConversionError: the result computes something else.
    """
    model = tflite.parse(payload, "the source model")
    graph = model.subgraphs[0]
    found = [
        chain
        for operator in graph.operators
        if tflite.op_name(model, operator) == "SPACE_TO_BATCH_ND"
        and (chain := _chain(model, graph, operator)) is not None
    ]
    for chain in found:
        _dilate(model, graph, *chain)
    if not found:
        return payload
    made = tflite.serialise(model)
    check_same(payload, made, "dilated convolutions as one operator")
    return made


def _chain(model: tflite.Flatbuffer, graph: Any, spread: Any) -> Any:
    """Return the operators spread, convolution and gather, the dilation and the padding."""
    convolution = _reader(graph, spread)
    gather = None if convolution is None else _reader(graph, convolution)
    if gather is None or tflite.op_name(model, gather) != "BATCH_TO_SPACE_ND":
        return None
    if tflite.op_name(model, convolution) not in _CONVOLUTIONS:
        return None
    how = convolution.builtinOptions
    steps = (how.strideH, how.strideW, how.dilationHFactor, how.dilationWFactor)
    if how.padding != _VALID or steps != (1, 1, 1, 1):
        return None
    blocks, pads = (_integers(model, graph, spread, number) for number in (1, 2))
    same, crops = (_integers(model, graph, gather, number) for number in (1, 2))
    if any(len(one) != 2 for one in (blocks, same)) or any(len(one) != 4 for one in (pads, crops)):
        return None
    left = [pad - crop for pad, crop in zip(pads, crops, strict=True)]
    if blocks != same or min(left) < 0:
        return None
    return spread, convolution, gather, blocks, left


def _reader(graph: Any, operator: Any) -> Any:
    """Return the one operator that reads a result as its first input, None if there is none."""
    made = int(operator.outputs[0])
    readers = [one for one in graph.operators if made in tflite.given(one.inputs)]
    ends = {int(index) for index in graph.outputs}
    if made in ends or len(readers) != 1 or tflite.given(readers[0].inputs).count(made) != 1:
        return None
    return readers[0] if int(readers[0].inputs[0]) == made else None


def _integers(model: tflite.Flatbuffer, graph: Any, operator: Any, number: int) -> list[int]:
    """Return a constant of integers that an operator reads, empty if it is none."""
    tensor = graph.tensors[int(operator.inputs[number])]
    data = model.buffers[tensor.buffer].data
    if data is None or tflite.type_name(tensor) not in ("int32", "int64"):
        return []
    values: list[int] = np.frombuffer(bytes(data), tflite.type_name(tensor)).tolist()
    return values


def _dilate(
    model: tflite.Flatbuffer,
    graph: Any,
    spread: Any,
    convolution: Any,
    gather: Any,
    blocks: list[int],
    pads: list[int],
) -> None:
    how = convolution.builtinOptions
    how.dilationHFactor, how.dilationWFactor = blocks
    _, *kernel, _ = (int(n) for n in graph.tensors[int(convolution.inputs[1])].shape)
    halves = [(size - 1) * step for size, step in zip(kernel, blocks, strict=True)]
    source, padded = int(spread.inputs[0]), int(spread.outputs[0])
    if pads == [n for total in halves for n in (total // 2, total - total // 2)]:
        how.padding = _SAME
    if how.padding == _SAME or not any(pads):
        graph.operators.remove(spread)
        padded = source
    else:
        _pad(model, graph, spread, pads)
    convolution.inputs = [padded, *(int(index) for index in convolution.inputs[1:])]
    convolution.outputs = [int(gather.outputs[0])]
    graph.operators.remove(gather)


def _pad(model: tflite.Flatbuffer, graph: Any, operator: Any, pads: list[int]) -> None:
    """Make an operator a PAD of height and width, in place."""
    both = np.array([[0, 0], pads[:2], pads[2:], [0, 0]], np.int32)
    before, after = (graph.tensors[int(i)] for i in (operator.inputs[0], operator.outputs[0]))
    wide = np.array(before.shape, np.int32) + both.sum(1, dtype=np.int32)
    after.shape, after.shapeSignature = wide, None
    operator.opcodeIndex = tflite.operator_code(model, schema.BuiltinOperator.PAD, 1)
    operator.builtinOptionsType = schema.BuiltinOptions.PadOptions
    operator.builtinOptions = schema.PadOptionsT()
    operator.inputs = [int(operator.inputs[0]), tflite.add_integers(model, both)]
