"""Facts that follow from shapes and types alone, whatever the file format."""

from collections.abc import Sequence
from math import prod
from typing import TypeAlias

from edgec_compiler.mapping.graph import Fact, Tensor

Shape: TypeAlias = tuple[int, ...]


def general_facts(
    given: Sequence[Tensor], made: Sequence[Tensor], channel_axis: int
) -> dict[str, Fact]:
    """Return the facts that every operator has. `channel_axis` is -1 for NHWC, 1 for NCHW."""
    data = [tensor for tensor in given if not tensor.constant]
    facts: dict[str, Fact] = {
        "inputs": len(given),
        "data_inputs": len(data),
        "constant_inputs": len(given) - len(data),
    }
    if data:
        facts |= {"input_dtype": data[0].dtype, **_shape("in", data[0], channel_axis)}
    if made:
        facts |= {"output_dtype": made[0].dtype, **_shape("out", made[0], channel_axis)}
    everything = [*data, *made]
    facts["inner_rank"] = max((tensor.inner_rank for tensor in everything), default=0)
    facts["elements"] = max((tensor.elements for tensor in everything), default=0)
    if data and made:
        facts["same_shape"] = data[0].shape == made[0].shape
    return facts


def _shape(side: str, tensor: Tensor, channel_axis: int) -> dict[str, Fact]:
    shape = tensor.shape
    if shape is None or not tensor.is_static:
        return {}
    facts: dict[str, Fact] = {
        f"rank_{side}": len(shape),
        f"shape_{side}": shape,
        f"elements_{side}": prod(shape),
        f"outer_{side}": prod(shape[:-1]),
        f"innermost_{side}": shape[-1] if shape else 1,
    }
    if shape:
        facts[f"batch_{side}"] = shape[0]
    if len(shape) == 4:
        channel_last = channel_axis == -1
        height, width = (shape[1], shape[2]) if channel_last else (shape[2], shape[3])
        facts |= {
            f"height_{side}": height,
            f"width_{side}": width,
            f"plane_{side}": height * width,
            f"channels_{side}": shape[channel_axis],
        }
    return facts


def resize_scale(
    old: tuple[int, int], new: tuple[int, int], *, align_corners: bool
) -> dict[str, Fact]:
    """Return how much larger a resize makes an image; each (height, width).

    With aligned corners the scale is that of the spaces between pixels, where there are any.
    """
    facts: dict[str, Fact] = {}
    for side, before, after in zip("hw", old, new, strict=True):
        if before < 1 or after < 1:
            continue
        spaces = align_corners and before > 1 and after > 1
        facts[f"scale_{side}"] = (after - 1) / (before - 1) if spaces else after / before
    facts["max_scale"] = max([new[0] / max(old[0], 1), new[1] / max(old[1], 1)])
    return facts
