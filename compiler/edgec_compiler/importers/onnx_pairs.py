"""Takes the quantisation of activations out of an ONNX model, so that targets can have their own.

A quantised file says where its activations were rounded. Kept as rounding, that is neither what a
quantiser reads nor what a converter can prove equal: one value on an edge falls to either side, and
all behind it with it. So the pair of a QuantizeLinear and a DequantizeLinear becomes what it means
for real numbers, which is nothing, or the activation that a quantiser has swallowed: a ReLU where
the range begins at zero, a clip where its width is a round number (6 of a ReLU6, 2 of a hard tanh),
which no range that was measured is. Weights stay the values that their integers stand for.

Between the two, integers may be moved (`MaxPool`, `Reshape`): the reals are moved as well. Left as
they are: pairs of other scales on both sides, per channel or in blocks, of fewer than 8 or more
than 16 bits, and integers that enter or leave the model.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgec_compiler.importers.onnx_contrib import as_pairs

NOTE = (
    "its activations are read as floats: each target quantises them anew, with --calibration DATA"
)

_OWN_DOMAINS = ("", "ai.onnx")
_MOVING = frozenset(
    {"Cast", "DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth"}
    | {"Squeeze", "Transpose", "Unsqueeze"}
)
_HELD = frozenset(
    {"Clip", "Cos", "Erf", "HardSigmoid", "Sigmoid", "Sin", "Softmax", "Softsign", "Tanh"}
)
_POSITIVE = frozenset({"Abs", "Clip", "HardSigmoid", "Relu", "Sigmoid", "Softmax"})
_KEEPS_SIGN = _MOVING | {"Add", "AveragePool", "Concat", "GlobalAveragePool", "Mul", "Sum"}
_STEPS = {np.dtype(kind) for kind in ("int8", "uint8", "int16", "uint16")}
_SIX = 6.0
_ROUND = 1e-6  # how far a width may be off a number of two digits: some roundings of a float32


@dataclass(frozen=True, slots=True)
class _Coded:
    """A tensor of integers, and the reals that it stands for."""

    real: str
    scale: float
    zero: int
    dtype: np.dtype[Any]


def without_pairs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy whose activations are reals, and a note; the model itself if it has none."""
    if not any(_is(node, "QuantizeLinear") or len(as_pairs(node)) > 1 for node in model.graph.node):
        return model, ()
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = [one for node in model.graph.node for one in as_pairs(node)]
    rewriter = _Rewriter(made)
    for node in nodes:
        rewriter.take(node)
    if not rewriter.count:
        return model, ()
    del made.graph.node[:]
    made.graph.node.extend(rewriter.nodes)
    return made, (NOTE,)


def _is(node: onnx.NodeProto, kind: str) -> bool:
    return node.op_type == kind and node.domain in _OWN_DOMAINS


@dataclass(slots=True)
class _Rewriter:
    model: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    count: int = 0
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    coded: dict[str, _Coded] = field(default_factory=dict)
    positive: set[str] = field(default_factory=set)  # reals that are never below zero
    held: set[str] = field(default_factory=set)  # reals that something keeps in a range
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.given = frozenset(value.name for value in self.model.graph.input)

    def take(self, node: onnx.NodeProto) -> None:
        """Add `node`, and what its reals become. What is then read by nobody is left out later."""
        if _is(node, "Constant") and any(a.name == "value" for a in node.attribute):
            self.constants[node.output[0]] = node.attribute[0].t
        if _is(node, "Identity") and node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
        if _is(node, "DequantizeLinear") and self._opens(node):
            return
        self.nodes.append(node)
        if _is(node, "QuantizeLinear"):
            self._close(node)
        elif node.domain in _OWN_DOMAINS and node.op_type in _MOVING and len(node.output) == 1:
            self._move(node)
        self._learn_range(node)

    def _opens(self, node: onnx.NodeProto) -> bool:
        """Let the reals themselves be what `node` makes, if it undoes their QuantizeLinear."""
        coded = self.coded.get(node.input[0])
        if coded is None or self._steps(node) != (coded.scale, coded.zero, coded.dtype):
            return False
        self.count += 1
        self.nodes.append(helper.make_node("Identity", [coded.real], [node.output[0]]))
        for known in (self.positive, self.held):
            if coded.real in known:
                known.add(node.output[0])
        return True

    def _close(self, node: onnx.NodeProto) -> None:
        steps = self._steps(node)
        if steps is None:
            return
        scale, zero, dtype = steps
        real = node.input[0]
        ends = None if real in self.given else self._swallowed(real, scale, zero, dtype)
        if ends is not None:
            real = self._limited(node.output[0], real, ends)
        self.coded[node.output[0]] = _Coded(real, scale, zero, dtype)

    def _swallowed(
        self, real: str, scale: float, zero: int, dtype: np.dtype[Any]
    ) -> tuple[float, float | None] | None:
        """Return the ends of what a range stands for, the upper one None of a ReLU."""
        limits = np.iinfo(dtype)
        low, width = (limits.min - zero) * scale, (limits.max - limits.min) * scale
        is_round = abs(_short(width) - width) <= _ROUND * width and real not in self.held
        if low == 0:
            if real in self.positive and not is_round:
                return None
            is_six = abs(width - _SIX) <= 2 * scale
            return 0.0, _SIX if is_six else _short(width) if is_round else None
        if not is_round or low > 0 or width + low <= 0:
            return None
        low = _short(low) if abs(_short(low) - low) <= scale else low  # zero points are whole
        return low, low + _short(width)

    def _limited(self, name: str, real: str, ends: tuple[float, float | None]) -> str:
        made = f"{name}/real"
        given = [real]
        if ends[1] is not None:
            for end, value in zip(("low", "high"), ends, strict=True):
                tensor = numpy_helper.from_array(np.array(value, np.float32))
                given.append(f"{made}/{end}")
                self.nodes.append(helper.make_node("Constant", [], given[-1:], value=tensor))
            self.held.add(made)
        self.nodes.append(helper.make_node("Relu" if ends[1] is None else "Clip", given, [made]))
        if ends[0] == 0:
            self.positive.add(made)
        return made

    def _move(self, node: onnx.NodeProto) -> None:
        coded = self.coded.get(node.input[0]) if node.input else None
        if coded is None:
            return
        if node.op_type == "Cast":  # PyTorch's exporter casts to the type that it is of already
            to = next(a.i for a in node.attribute if a.name == "to")
            if to == helper.np_dtype_to_tensor_dtype(coded.dtype):
                self.coded[node.output[0]] = coded
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0], copy.output[0] = coded.real, f"{node.output[0]}/real"
        self.nodes.append(copy)
        self._learn_range(copy)
        self.coded[node.output[0]] = _Coded(copy.output[0], coded.scale, coded.zero, coded.dtype)

    def _learn_range(self, node: onnx.NodeProto) -> None:
        if node.domain not in _OWN_DOMAINS:
            return
        reads = node.input[:1] if node.op_type in _MOVING else node.input
        kept = node.op_type in _KEEPS_SIGN and all(name in self.positive for name in reads)
        if kept or (node.op_type in _POSITIVE and self._is_floored(node)):
            self.positive.update(node.output[:1])
        moved = node.op_type in _MOVING and any(name in self.held for name in reads)
        if moved or node.op_type in _HELD:
            self.held.update(node.output[:1])

    def _is_floored(self, node: onnx.NodeProto) -> bool:
        """Return whether an operator that may be a Clip has no result below zero."""
        if node.op_type != "Clip":
            return True
        if len(node.input) > 1:
            low = self._values(node.input[1])
            return low is not None and low.size == 1 and float(low.reshape(())) >= 0
        return any(a.name == "min" and a.f >= 0 for a in node.attribute)

    def _steps(self, node: onnx.NodeProto) -> tuple[float, int, np.dtype[Any]] | None:
        """Return scale, zero point and type of a pair's half, if they are one for all values."""
        scale = self._values(node.input[1])
        if scale is None or scale.size != 1 or any(a.name == "block_size" for a in node.attribute):
            return None
        if len(node.input) < 3 or not node.input[2]:
            kinds = [a.i for a in node.attribute if a.name == "output_dtype" and a.i]
            return None if kinds else (float(scale.reshape(())), 0, np.dtype(np.uint8))
        zero = self._values(node.input[2])
        if zero is None or zero.size != 1 or zero.dtype not in _STEPS:
            return None
        return float(scale.reshape(())), int(zero.reshape(())), zero.dtype

    def _values(self, name: str) -> Any:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)


def _short(value: float) -> float:
    """Return the number of two digits next to `value`."""
    return float(f"{value:.2g}")
