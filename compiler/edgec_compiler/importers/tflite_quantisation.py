"""What a TFLite file says about its quantisation: whether it is quantised, whether it can be.

Some exporters write quantisation that the schema forbids and runtimes happen to ignore, until one
does not. Mended: a quantized_dimension that is no axis of the tensor, or not the one that its
scales belong to; zero points that are left out, or given once for all channels. Refused, since no
reading of them is evidently meant: scales that are zero, negative or not finite, and as many scales
as no axis has.
"""

import math
from pathlib import Path
from typing import Any

from edgec_compiler import tflite
from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers.tflite_bounds import MAX_BYTES
from edgec_compiler.source import Quantisation

# Where TFLite's own kernels look for the channels of a weight tensor (input 1).
_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}


def own_quantisation(path: Path) -> Quantisation | None:
    """Return what the TFLite file at `path` has as integers; None if it is anything else."""
    try:
        with path.open("rb") as stream:
            if stream.read(8)[4:] != b"TFL3" or path.stat().st_size > MAX_BYTES:
                return None
        model = tflite.parse(path.read_bytes(), str(path))
    except (OSError, ModelFileError):
        return None
    if is_quantised(model):
        return "whole"
    return "weights" if has_quantised_weights(model) else None


def is_quantised(model: tflite.Flatbuffer) -> bool:
    """Return whether the model computes with integers that stand for real values."""
    return _has_scales(model, constant=False)


def has_quantised_weights(model: tflite.Flatbuffer) -> bool:
    """Return whether stored weights are integers that stand for real values."""
    return _has_scales(model, constant=True)


def _has_scales(model: tflite.Flatbuffer, *, constant: bool) -> bool:
    return any(
        tensor.quantization is not None
        and _count(tensor.quantization.scale) > 0
        and tflite.is_constant(model, tensor) == constant
        for graph in model.subgraphs
        for tensor in graph.tensors
    )


def repair(model: tflite.Flatbuffer, origin: str) -> tuple[str, ...]:
    """Mend `model` in place where it is known how; return a note for each kind of repair.

    Raises:
        ModelFileError: a tensor's quantisation has no meaning.
    """
    notes: dict[str, int] = {}
    for graph in model.subgraphs:
        preferred = _channel_axes(model, graph)
        for index, tensor in enumerate(graph.tensors):
            if tensor.quantization is None or _count(tensor.quantization.scale) == 0:
                continue
            try:
                mended = _mend(tensor, preferred.get(index))
            except ValueError as error:
                raise ModelFileError(
                    f"{origin}: tensor '{tflite.tensor_name(tensor)}' {error}: quantise it anew"
                ) from error
            for note in mended:
                notes[note] = notes.get(note, 0) + 1
    return tuple(f"repaired {note} of {count} tensors" for note, count in notes.items())


def _channel_axes(model: tflite.Flatbuffer, graph: Any) -> dict[int, int]:
    found = {}
    for operator in graph.operators:
        axis = _CHANNEL_AXIS.get(tflite.op_name(model, operator))
        inputs = [] if operator.inputs is None else [int(i) for i in operator.inputs]
        if axis is not None and len(inputs) > 1:
            found[inputs[1]] = axis
            found.update(dict.fromkeys(inputs[2:3], 0))
    return found


def _mend(tensor: Any, preferred: int | None) -> list[str]:
    """Return what was mended. Raises ValueError with the rest of a sentence."""
    quantisation = tensor.quantization
    scales = [float(scale) for scale in quantisation.scale]
    if any(not math.isfinite(scale) or scale <= 0 for scale in scales):
        raise ValueError("has a scale that is not above zero")
    notes = []
    zeros = _count(quantisation.zeroPoint)
    if zeros != len(scales):
        if zeros > 1:
            raise ValueError(f"has {len(scales)} scales and {zeros} zero points")
        zero = int(quantisation.zeroPoint[0]) if zeros else 0
        quantisation.zeroPoint = [zero] * len(scales)
        notes.append("the zero points")
    axis = _axis(tensor, len(scales), preferred)
    if axis != quantisation.quantizedDimension:
        quantisation.quantizedDimension = axis
        notes.append("the quantized_dimension")
    return notes


def _axis(tensor: Any, count: int, preferred: int | None) -> int:
    """Return the axis that `count` scales belong to: the stated one wherever it can be."""
    shape = [int(size) for size in ([] if tensor.shape is None else tensor.shape)]
    stated = int(tensor.quantization.quantizedDimension)
    if count == 1:
        return stated if 0 <= stated < max(len(shape), 1) else 0
    if 0 <= stated < len(shape) and shape[stated] == count:
        return stated
    fitting = [axis for axis, size in enumerate(shape) if size == count]
    if preferred in fitting:
        return fitting[fitting.index(preferred)]
    if len(fitting) != 1:
        raise ValueError(f"has {count} scales for shape {shape} along axis {stated}")
    return fitting[0]


def _count(values: Any) -> int:
    return 0 if values is None else len(values)
