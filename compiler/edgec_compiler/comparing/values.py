"""Runs a model on one sample after the other and hands out chosen tensors, in real units."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from edgec_compiler.errors import ConversionError
from edgec_compiler.quantise.activations import Feeds, keeping_interpreter, plain_session
from edgec_runtime.session import Array


def tflite_values(
    payload: bytes, tensors: Sequence[int], samples: Iterable[Feeds]
) -> Iterator[list[Array | None]]:
    """Yield for every float sample the values of `tensors`, by number; None where one has none.

    Inputs are taken in the file's order, and quantised where the model takes integers.

    Raises:
        ConversionError: LiteRT cannot run the model.
    """
    interpreter = keeping_interpreter(payload)
    inputs = interpreter.get_input_details()
    details = {one["index"]: one for one in interpreter.get_tensor_details()}
    for sample in samples:
        for into, value in zip(inputs, sample.values(), strict=True):
            interpreter.set_tensor(into["index"], _coded(value, into))
        interpreter.reset_all_variables()
        interpreter.invoke()
        yield [_real(interpreter, details[index]) for index in tensors]


def _coded(value: Array, into: Mapping[str, Any]) -> Array:
    wanted = np.dtype(into["dtype"])
    if value.dtype == wanted:
        return value
    scale, zero = into["quantization"]
    if not scale:
        return value.astype(wanted)
    limits = np.iinfo(wanted)
    made: Array = np.clip(np.rint(value / scale) + zero, limits.min, limits.max).astype(wanted)
    return made


def _real(interpreter: Any, details: Mapping[str, Any]) -> Array | None:
    try:
        value: Array = interpreter.get_tensor(details["index"])
    except ValueError:
        return None  # a temporary of a kernel, without data
    scale, zero = details["quantization"]
    if value.dtype.kind in "iu" and scale:
        return (value.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return value


def onnx_values(
    model: onnx.ModelProto, tensors: Sequence[str], samples: Iterable[Feeds]
) -> Iterator[list[Array | None]]:
    """Yield for every float sample the values of `tensors`, by name.

    Raises:
        ConversionError: ONNX Runtime cannot run the model.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    already = {output.name for output in watched.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in already:
            watched.graph.output.append(onnx.ValueInfoProto(name=name))
    try:
        session = plain_session(watched)
        for sample in samples:
            yield list(session.run(list(tensors), dict(sample)))
    except Exception as error:  # the runtime's errors share no base class
        if type(error).__module__.startswith("onnxruntime"):
            raise ConversionError(f"ONNX Runtime cannot run the model: {error}") from error
        raise
