"""The steps of a quantised image model that comes without a STEPS.toml.

A quantised TFLite file says which real values its input's integers stand for. Where these are the
whole of 0..1, 0..255 or -1..1 over images of one or three channels, the integers are pixels: as
they are for uint8, less 128 for int8. That is how TensorFlow's image models are quantised. Then
the bundle takes photos by itself. The normalisation of a float model can't be known: nothing is
guessed.
"""

from collections.abc import Sequence
from typing import Any

from edgec_compiler.interface import Steps
from edgec_compiler.source import SourceModel
from edgec_runtime.session import ModelTensor

_MODES = {1: "L", 3: "RGB"}  # by channels
_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
_TOLERANCE = 0.02  # of the span: ranges that were learnt from data miss an end by a little
_SMALLEST = 16  # pixels: smaller planes are rarely photos
_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}


def image_steps(source: SourceModel) -> Steps:
    """Return the way from a photo to `source`'s input and from its scores to floats.

    Empty unless the model is a quantised TFLite file with one input that evidently holds pixels.
    """
    if source.format != "tflite" or len(source.inputs) != 1 or not _holds_pixels(source.inputs[0]):
        return Steps()
    given = source.inputs[0]
    _, height, width, channels = given.shape
    before: list[dict[str, Any]] = [
        {"op": "decode_image", "mode": _MODES[channels]},
        {"op": "resize", "size": [height, width]},
    ]
    if given.dtype == "int8":
        before += [
            {"op": "cast", "dtype": "float32"},
            {"op": "quantize", "scale": 1.0, "zero_point": -128, "dtype": "int8"},
        ]
    shape = (-1, height, width, channels)
    spec = {"name": given.name, "dtype": "uint8", "shape": shape, "meaning": "image"}
    outputs, after = _scores(source.outputs)
    return Steps((spec,), outputs, tuple(before), after)


def _holds_pixels(tensor: ModelTensor) -> bool:
    limits = _LIMITS.get(tensor.dtype)
    if limits is None or tensor.scale is None or len(tensor.shape) != 4:
        return False
    batch, height, width, channels = tensor.shape
    if batch != 1 or channels not in _MODES or min(height, width) < _SMALLEST:
        return False
    low, high = (tensor.scale * (limit - (tensor.zero_point or 0)) for limit in limits)
    return any(
        abs(low - least) <= _TOLERANCE * (most - least)
        and abs(high - most) <= _TOLERANCE * (most - least)
        for least, most in _RANGES
    )


def _scores(
    outputs: Sequence[ModelTensor],
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """Return the public outputs, and the steps that make scores of quantised ones [1, classes]."""
    specs, steps = [], []
    for tensor in outputs:
        spec: dict[str, Any] = {"name": tensor.name}
        if tensor.scale is not None and tensor.dtype in _LIMITS and len(tensor.shape) == 2:
            step = {
                "op": "dequantize",
                "scale": tensor.scale,
                "zero_point": tensor.zero_point or 0,
            }
            steps.append(step if len(outputs) == 1 else {**step, "output": tensor.name})
            if len(outputs) == 1 and tensor.shape[1] > 1:
                spec["meaning"] = "scores"
        specs.append(spec)
    return tuple(specs), tuple(steps)
