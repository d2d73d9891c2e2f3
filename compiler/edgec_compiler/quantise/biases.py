"""Gives int32 biases room: a channel's weight scale bounds the bias that it can hold.

A bias is quantised by (input scale x weight scale). Where all weights of a channel are tiny or zero
(a pruned channel, a constant), that product is so small that the bias overflows 32 bits, and the
channel's output is lost. TFLite's own converter widens the weight scale of such a channel
(`AdjustWeightsForBiasScale` in tensorflow/lite/toco and its quantizer); ai-edge-quantizer does not.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec_compiler import tflite
from edgec_runtime.session import Array

_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_LARGEST = 2.0**30  # half of int32: what is accumulated needs the rest
_QMAX = 127


def with_room(payload: bytes, ranges: Mapping[str, tuple[float, float]]) -> bytes:
    """Return the float TFLite model with no channel whose bias would overflow at int8.

    In such a channel one weight becomes as large as the scale must be, which adds at most
    |bias| / 2**16 to its output; all other models come back as they are.

    Args:
        payload: the float model.
        ranges: of its activations, by tensor name.
    """
    model = tflite.parse(payload, "the float model")
    graph = model.subgraphs[0]
    changed = False
    for operator in graph.operators:
        axis = _CHANNEL_AXIS.get(tflite.op_name(model, operator))
        if axis is None or len(operator.inputs) < 3 or operator.inputs[2] == -1:
            continue
        activation, kernel, bias = (graph.tensors[index] for index in operator.inputs[:3])
        known = ranges.get(tflite.tensor_name(activation))
        weights, offsets = _values(model, kernel), _values(model, bias)
        if known is None or weights is None or offsets is None:
            continue
        wider = _widened(np.moveaxis(weights, axis, 0), offsets, known)
        if wider is not None:
            raw = np.moveaxis(wider, 0, axis).astype("<f4").tobytes()
            model.buffers[kernel.buffer].data = np.frombuffer(raw, np.uint8)
            changed = True
    return tflite.serialise(model) if changed else payload


def _widened(weights: Array, biases: Array, known: tuple[float, float]) -> Array | None:
    """Return weights [channels, ...] that leave room for `biases` [channels]; None: they do."""
    step = (max(known[1], 0.0) - min(known[0], 0.0)) / 255
    if step <= 0 or len(weights) != len(biases):
        return None
    rows = weights.reshape(len(weights), -1).copy()
    needed = _QMAX * np.abs(biases.astype(np.float64)) / (step * _LARGEST)
    tight = np.abs(rows).max(1) < needed
    if not tight.any():
        return None
    rows[tight, 0] = needed[tight]
    return rows.reshape(weights.shape)


def _values(model: tflite.Flatbuffer, tensor: Any) -> Array | None:
    """Return the constant floats of a tensor, None if it has none."""
    if tflite.type_name(tensor) != "float32" or not tflite.is_constant(model, tensor):
        return None
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    return np.frombuffer(data.tobytes(), "<f4").reshape([int(size) for size in tensor.shape])
