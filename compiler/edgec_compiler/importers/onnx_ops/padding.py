"""How convolutions and pools pad, over all opsets: explicit pads or auto_pad."""

from torch import Tensor
from torch.nn import functional

from edgec_compiler.importers.onnx_node import Node

Pads = tuple[tuple[int, int], ...]  # (before, after) per spatial axis


def spatial(node: Node, name: str, rank: int) -> tuple[int, ...]:
    """Return the attribute `name` (strides, dilations) with its default of ones."""
    return tuple(node.attr(name) or [1] * rank)


def pads_of(node: Node, x: Tensor, kernel: tuple[int, ...]) -> Pads:
    """Return how much `node` pads each spatial axis of x [N, C, *spatial]."""
    rank = len(kernel)
    mode = node.attr("auto_pad", "NOTSET") or "NOTSET"
    if mode == "NOTSET":
        pads = node.attr("pads") or [0] * (2 * rank)
        return tuple((pads[i], pads[i + rank]) for i in range(rank))
    if mode == "VALID":
        return ((0, 0),) * rank
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    result = []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(result)


def is_even(pads: Pads) -> bool:
    """Return whether both sides of each axis are padded alike."""
    return all(before == after for before, after in pads)


def pad(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """Return x [N, C, *spatial] with its spatial axes padded."""
    if not any(n for pair in pads for n in pair):
        return x
    return functional.pad(x, [n for pair in reversed(pads) for n in pair], value=value)
