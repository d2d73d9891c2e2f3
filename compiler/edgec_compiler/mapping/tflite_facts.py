"""Facts of TFLite operators: options as the schema stores them, and what follows from shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from edgec_compiler.mapping.graph import Fact, Tensor
from edgec_compiler.mapping.shape_facts import Shape, general_facts, resize_scale

Given = Sequence[Tensor | None]
Values = Mapping[int, tuple[int, ...]]


class Option(NamedTuple):
    """One field of an operator's options table."""

    fact: str
    field: int
    form: str = "<i"  # struct's; "?" a truth value
    default: int = 0
    words: tuple[str, ...] = ()


_ACTIVATIONS = ("none", "relu", "relu_n1_to_1", "relu6", "tanh", "sign_bit")
_PADDING = Option("padding", 0, "<b", 0, ("same", "valid"))
_STRIDES = (Option("stride_w", 1), Option("stride_h", 2))


def _activation(field: int) -> Option:
    return Option("activation", field, "<b", 0, _ACTIVATIONS)


_POOL = (
    _PADDING,
    *_STRIDES,
    Option("kernel_w", 3),
    Option("kernel_h", 4),
    _activation(5),
)
_REDUCER = (Option("keep_dims", 0, "?"),)
OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "ADD": (_activation(0),),
    "AVERAGE_POOL_2D": _POOL,
    "BATCH_MATMUL": (Option("adj_x", 0, "?"), Option("adj_y", 1, "?")),
    "CONCATENATION": (Option("axis", 0), _activation(1)),
    "CONV_2D": (
        _PADDING,
        *_STRIDES,
        _activation(3),
        Option("dilation_w", 4, "<i", 1),
        Option("dilation_h", 5, "<i", 1),
    ),
    "DEPTHWISE_CONV_2D": (
        _PADDING,
        *_STRIDES,
        Option("depth_multiplier", 3),
        _activation(4),
        Option("dilation_w", 5, "<i", 1),
        Option("dilation_h", 6, "<i", 1),
    ),
    "DEPTH_TO_SPACE": (Option("block_size", 0),),
    "DIV": (_activation(0),),
    "FULLY_CONNECTED": (
        _activation(0),
        Option("weights_format", 1, "<b", 0, ("default", "shuffled4x16int8")),
        Option("keep_num_dims", 2, "?"),
    ),
    "GATHER": (Option("axis", 0), Option("batch_dims", 1)),
    "L2_NORMALIZATION": (_activation(0),),
    "L2_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    "MEAN": _REDUCER,
    "MUL": (_activation(0),),
    "PACK": (Option("values", 0), Option("axis", 1)),
    "REDUCE_MAX": _REDUCER,
    "REDUCE_MIN": _REDUCER,
    "REDUCE_PROD": _REDUCER,
    "RESIZE_BILINEAR": (Option("align_corners", 2, "?"), Option("half_pixel_centers", 3, "?")),
    "RESIZE_NEAREST_NEIGHBOR": (
        Option("align_corners", 0, "?"),
        Option("half_pixel_centers", 1, "?"),
    ),
    "SPACE_TO_DEPTH": (Option("block_size", 0),),
    "SPLIT": (Option("splits", 0),),
    "SPLIT_V": (Option("splits", 0),),
    "STRIDED_SLICE": tuple(
        Option(name, field)
        for field, name in enumerate(
            ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
        )
    ),
    "SUB": (_activation(0),),
    "SUM": _REDUCER,
    "TRANSPOSE_CONV": (_PADDING, *_STRIDES, _activation(3)),
    "UNPACK": (Option("values", 0), Option("axis", 1)),
}
_REDUCTIONS = ("MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM", "ARG_MAX", "ARG_MIN")
_WEIGHTED = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}


@dataclass(frozen=True, slots=True)
class _Case:
    """One operator with everything that its facts follow from."""

    op: str
    given: Given
    made: Sequence[Tensor]
    options: Mapping[str, Fact]
    values: Values

    def shape(self, place: int) -> Shape | None:
        """Return the shape of an input, if it is there and known."""
        tensor = self.given[place] if place < len(self.given) else None
        return tensor.shape if tensor is not None and tensor.is_static else None


def facts_of(
    op: str,
    version: int,
    given: Given,
    made: Sequence[Tensor],
    options: Mapping[str, Fact],
    values: Values,
) -> dict[str, Fact]:
    """Return every known fact of one operator.

    Args:
        op: its name, as the schema writes it.
        version: of the operator.
        given: its inputs by place, None where one is left out.
        made: its outputs.
        options: from OPTIONS.
        values: of its constant inputs, by place: integers, or raw bytes of other types.
    """
    case = _Case(op, given, made, options, values)
    facts: dict[str, Fact] = {"version": version, **options}
    facts |= general_facts([one for one in given if one is not None], made, channel_axis=-1)
    finds = (_weights, _axes, _resize, _slices, _pads, _transpose, _tile, _concatenation, _alpha)
    for find in finds:
        facts |= find(case)
    return facts | _same_padding(case, facts)


def _same_padding(case: _Case, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """Return whether a window puts anything around its input: SAME may add nothing, too."""
    shape = case.shape(0)
    if case.options.get("padding") == "valid":
        return {"pads": False}
    if case.options.get("padding") != "same" or shape is None or len(shape) != 4:
        return {}
    missing = []
    for side, size in zip("hw", shape[1:3], strict=True):
        kernel, stride = facts.get(f"kernel_{side}"), facts.get(f"stride_{side}")
        dilation = facts.get(f"dilation_{side}", 1)
        if type(kernel) is not int or type(stride) is not int or type(dilation) is not int:
            return {}
        reach = (kernel - 1) * dilation + 1
        missing.append((-(-size // max(stride, 1)) - 1) * stride + reach - size)
    return {"pads": max(missing) > 0}


def _weights(case: _Case) -> dict[str, Fact]:
    place = _WEIGHTED.get(case.op)
    if place is None or place >= len(case.given):
        return {}
    weights = case.given[place]
    if weights is None:
        return {}
    facts: dict[str, Fact] = {"weights_constant": weights.constant, "weights_dtype": weights.dtype}
    if weights.shape is not None and len(weights.shape) == 4:
        facts |= {"kernel_h": weights.shape[1], "kernel_w": weights.shape[2]}
    return facts | _dilation(case, facts)


def _dilation(case: _Case, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """Return the dilations that have an effect: along a kernel of 1 that is the other one."""
    height, width = case.options.get("dilation_h"), case.options.get("dilation_w")
    if height is None or width is None:
        return {}
    if facts.get("kernel_h") == 1:
        return {"dilation_h": width}
    return {"dilation_w": height} if facts.get("kernel_w") == 1 else {}


def _axes(case: _Case) -> dict[str, Fact]:
    """Return which axes are reduced, packed, split or joined, counted from 0."""
    place, rank_of = 0, 0
    if case.op in _REDUCTIONS:
        axes = case.values.get(1)
    elif case.op in ("SPLIT", "SPLIT_V"):
        place = {"SPLIT": 1, "SPLIT_V": 0}[case.op]
        axes = case.values.get({"SPLIT": 0, "SPLIT_V": 2}[case.op])
    else:
        axis = case.options.get("axis")
        axes = (axis,) if type(axis) is int else None
        rank_of = 1 if case.op == "PACK" else 0
    shape = case.shape(place)
    if axes is None or shape is None:
        return {}
    rank = len(shape) + rank_of
    if not all(-rank <= axis < rank for axis in axes):
        return {}
    counted = tuple(sorted({axis % rank for axis in axes if rank}))
    facts: dict[str, Fact] = {"axes": counted}
    if rank_of == 0:
        facts["reduced_elements"] = prod(shape[axis] for axis in counted)
        facts["innermost_reduced"] = len(shape) - 1 in counted
    return facts


def _resize(case: _Case) -> dict[str, Fact]:
    if not case.op.startswith("RESIZE_") or not case.made:
        return {}
    old, new = case.shape(0), case.made[0].shape
    if old is None or new is None or len(old) != 4 or len(new) != 4:
        return {}
    corners = case.options.get("align_corners") is True
    return resize_scale((old[1], old[2]), (new[1], new[2]), align_corners=corners)


def _slices(case: _Case) -> dict[str, Fact]:
    if case.op != "STRIDED_SLICE" or 3 not in case.values:
        return {}
    return {"strides": case.values[3]}


def _pads(case: _Case) -> dict[str, Fact]:
    if case.op not in ("PAD", "PADV2", "MIRROR_PAD") or 1 not in case.values:
        return {}
    pads, paddings = case.values[1], case.given[1]
    padded = tuple(i for i in range(len(pads) // 2) if pads[2 * i] or pads[2 * i + 1])
    facts: dict[str, Fact] = {"axes": padded}
    return facts if paddings is None else facts | {"paddings_dtype": paddings.dtype}


def _transpose(case: _Case) -> dict[str, Fact]:
    if case.op != "TRANSPOSE" or 1 not in case.values:
        return {}
    order = case.values[1]
    return {"permutation": order, "moves_batch": bool(order) and order[0] != 0}


def _tile(case: _Case) -> dict[str, Fact]:
    if case.op != "TILE" or not case.values.get(1):
        return {}
    return {"repeats_batch": case.values[1][0] != 1}


def _concatenation(case: _Case) -> dict[str, Fact]:
    if case.op != "CONCATENATION":
        return {}
    constants = [i for i, one in enumerate(case.given) if one is not None and one.constant]
    if not constants or not all(place in case.values for place in constants):
        return {}
    return {"constants_are_zero": not any(any(case.values[place]) for place in constants)}


def _alpha(case: _Case) -> dict[str, Fact]:
    shape = case.shape(1)
    if case.op != "PRELU" or shape is None:
        return {}
    return {"alpha_outer": prod(shape[:-1])}
