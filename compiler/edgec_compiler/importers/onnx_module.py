"""An ONNX graph as a torch module: interpreted node by node, so that torch can trace it.

Building walks the graph once on an example input. What does not depend on the input is computed
there and becomes a constant: shapes are static, so shape arithmetic disappears. What remains is a
list of operators, each a row of the operator tables. Taken: every operator in the tables, ONNX's
own functions, the model's functions, and control flow (`onnx_control`). Refused: foreign domains,
and operators whose output shape depends on data.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from edgec_compiler.errors import ModelFileError, UnsupportedOperatorError
from edgec_compiler.importers.onnx_contrib import DOMAIN
from edgec_compiler.importers.onnx_control import CONTROL
from edgec_compiler.importers.onnx_dtypes import NARROW
from edgec_compiler.importers.onnx_file import array_of, attributes_of, opset_of
from edgec_compiler.importers.onnx_functions import expand
from edgec_compiler.importers.onnx_node import Constant, Node
from edgec_compiler.importers.onnx_ops import OPS
from edgec_compiler.importers.onnx_ops.dtypes import tensor_of, values_of
from edgec_compiler.importers.onnx_ops.refused import OF_ONNX_RUNTIME, REASONS
from edgec_runtime.session import ModelTensor

_MAX_NODES = 100_000  # expanded; a recursive function must not run for ever
_MAX_TENSOR_BYTES = 1 << 34  # of an activation; a view of few bytes may stand for many
_SHAPES = frozenset({"OptionalHasElement", "SequenceLength", "Shape", "Size"})  # of static shapes
_OWN_DOMAINS = ("", "ai.onnx")
_WIDENING = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})
_MOVING = frozenset(
    {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, KeyError, NotImplementedError)
Call = Callable[..., Any]


class OnnxModule(nn.Module):
    """The operators of an ONNX graph, run in order. Float constants are parameters."""

    def __init__(
        self,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        steps: tuple[tuple[Node, Call], ...],
        constants: dict[str, Constant],
    ) -> None:
        super().__init__()
        self.input_names = inputs
        self.output_names = outputs
        self.steps = steps
        self._held: dict[str, str] = {}
        for name, value in constants.items():
            attribute = self._attribute_for(name)
            tensor = tensor_of(value)
            if tensor.is_floating_point():
                self.register_parameter(attribute, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(attribute, tensor)
            self._held[name] = attribute

    def _attribute_for(self, name: str) -> str:
        base = "c_" + re.sub(r"\W", "_", name)[:80]
        attribute, count = base, 1
        while hasattr(self, attribute):
            count += 1
            attribute = f"{base}_{count}"
        return attribute

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return the graph's outputs: one tensor, or a tuple of several."""
        values: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        for node, call in self.steps:
            given = [self._value(values, name) for name in node.inputs]
            results = call(node, *given)
            for name, result in zip(node.outputs, _as_tuple(results), strict=False):
                values[name] = result
        made = tuple(self._value(values, name) for name in self.output_names)
        return made[0] if len(made) == 1 else made

    def _value(self, values: dict[str, Any], name: str) -> Any:
        if name == "":
            return None
        return values[name] if name in values else getattr(self, self._held[name])


def build_module(
    model: onnx.ModelProto, example: dict[str, torch.Tensor]
) -> tuple[OnnxModule, tuple[ModelTensor, ...]]:
    """Return `model` as a module for inputs of the example's shapes, and what its outputs are.

    Raises:
        UnsupportedOperatorError: an operator cannot be expressed; it is named.
        ModelFileError: the graph contradicts itself.
    """
    builder = Builder(model, example)
    with torch.no_grad():
        builder.walk(list(model.graph.node))
    return builder.finish([value.name for value in model.graph.output])


class Builder:
    """Walks the graph on example values, folding what is constant.

    A value is a tensor, a list of tensors (ONNX's sequence) or None (an empty optional).
    """

    def __init__(self, model: onnx.ModelProto, example: dict[str, torch.Tensor]) -> None:
        self.inputs = tuple(example)
        self.opset = opset_of(model)
        self.local = {(one.domain, one.name): one for one in model.functions}
        self.constants: dict[str, Constant] = {}
        self.narrow: set[str] = set()
        self.values: dict[str, Any] = dict(example)
        self.steps: list[tuple[Node, Call]] = []
        self.walked = 0
        for one in model.graph.initializer:
            self.hold(one.name, one)

    def hold(self, name: str, tensor: onnx.TensorProto) -> None:
        """Keep a tensor of the file as a constant."""
        self.constants[name] = array_of(tensor)
        if tensor.data_type in NARROW:
            self.narrow.add(name)

    def walk(self, nodes: list[onnx.NodeProto]) -> None:
        """Add `nodes` in order. Raises ModelFileError, UnsupportedOperatorError."""
        for proto in nodes:
            self.count()
            self._add(proto)

    def count(self) -> None:
        """Count one operator, or one turn of a loop. Raises ModelFileError beyond the limit."""
        self.walked += 1
        if self.walked > _MAX_NODES:
            raise ModelFileError(f"the graph has more than {_MAX_NODES} operators")

    def _add(self, proto: onnx.NodeProto) -> None:
        node = self._node(proto)
        own = proto.domain in _OWN_DOMAINS
        if own and proto.op_type == "Constant":
            self._constant(proto, node)
        elif own and proto.op_type in CONTROL:
            CONTROL[proto.op_type](self, node)
        elif own and proto.op_type in OPS:
            self.run(node, OPS[proto.op_type])
        else:
            types = tuple(self._type(name) for name in proto.input)
            body = expand(proto, self.opset, types, self.local)
            if body is None:
                known = "" if own else f" of domain {proto.domain}"
                reasons = OF_ONNX_RUNTIME if proto.domain == DOMAIN else REASONS
                node.refuse(reasons.get(node.op, f"this operator{known} is not supported"))
            self.walk(body)

    def _constant(self, proto: onnx.NodeProto, node: Node) -> None:
        name = node.outputs[0]
        self.constants[name] = _constant(node)
        if any(a.name == "value" and a.t.data_type in NARROW for a in proto.attribute):
            self.narrow.add(name)

    def _node(self, proto: onnx.NodeProto) -> Node:
        if not isinstance(proto.op_type, str):  # bytes, where the file is damaged
            raise ModelFileError(f"an operator is called {proto.op_type!r}, which is no text")
        if not proto.output:
            raise ModelFileError(f"operator {proto.op_type} makes nothing")
        for name in proto.input:
            if name and name not in self.values and name not in self.constants:
                raise ModelFileError(
                    f"operator {proto.op_type}: nothing makes its input '{name}' before it"
                )
        return Node(
            op=proto.op_type,
            opset=self.opset,
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            attributes=attributes_of(proto.attribute),
            constants=tuple(self.constants.get(name) if name else None for name in proto.input),
            narrow=frozenset(i for i, name in enumerate(proto.input) if name in self.narrow),
        )

    def _type(self, name: str) -> onnx.TypeProto:
        if not name:
            return onnx.TypeProto()
        value = self.example(name)
        if not isinstance(value, torch.Tensor):
            return onnx.TypeProto()
        element = onnx.helper.np_dtype_to_tensor_dtype(values_of(value).dtype)
        return onnx.helper.make_tensor_type_proto(element, list(value.shape))

    def example(self, name: str) -> Any:
        """Return the value of `name` on the example input."""
        if name in self.values:
            return self.values[name]
        return tensor_of(self.constants[name])

    def run(self, node: Node, call: Call) -> None:
        """Run `node` on example values; keep it as a step if it depends on the input."""
        narrow = self._narrow(node)
        given = [self.example(name) if name else None for name in node.inputs]
        try:
            results = _as_tuple(call(node, *given))
        except _FAILURES as error:
            shapes = [list(value.shape) for value in given if isinstance(value, torch.Tensor)]
            reason = str(error).strip().partition("\n")[0][:300]
            raise UnsupportedOperatorError(
                node.op, node.outputs[0], f"fails on inputs of shapes {shapes}: {reason}"
            ) from error
        for result in results:
            if isinstance(result, torch.Tensor) and result.nbytes > _MAX_TENSOR_BYTES:
                node.refuse(
                    f"makes a tensor of shape {list(result.shape)}, of {result.nbytes:,} bytes; "
                    f"edgec takes {_MAX_TENSOR_BYTES:,} at most"
                )
        dense = all(isinstance(result, torch.Tensor) for result in results)
        known = all(name in self.constants for name in node.inputs if name)
        fixed = dense and (known or node.op in _SHAPES)
        if narrow:
            self.narrow.update(node.outputs)
        for name, result in zip(node.outputs, results, strict=False):
            if fixed:
                self.constants[name] = values_of(result)
            else:
                self.values[name] = result
        if not fixed:
            self.steps.append((node, call))

    def _narrow(self, node: Node) -> bool:
        """Return whether what `node` makes has fewer than 8 bits, or refuse it."""
        if not node.narrow or node.op in _WIDENING:
            return False
        if node.op not in _MOVING:
            node.refuse("integers of fewer than 8 bits can only be moved, cast or dequantised")
        return True

    def finish(self, outputs: list[str]) -> tuple[OnnxModule, tuple[ModelTensor, ...]]:
        """Return the module, and what its outputs are. Raises ModelFileError."""
        for name in outputs:
            if name not in self.values and name not in self.constants:
                raise ModelFileError(f"nothing makes the graph's output '{name}'")
            if not isinstance(self.example(name), torch.Tensor):
                raise UnsupportedOperatorError("Graph", name, "only tensors can leave a model")
        made = [(name, self.example(name)) for name in outputs]
        tensors = tuple(
            ModelTensor(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
            for name, value in made
        )
        steps = _needed(self.steps, outputs)
        read = {name for node, _ in steps for name in node.inputs} | set(outputs)
        held = {name: self.constants[name] for name in sorted(read) if name in self.constants}
        return OnnxModule(self.inputs, tuple(outputs), steps, held), tensors


def _needed(steps: list[tuple[Node, Call]], outputs: list[str]) -> tuple[tuple[Node, Call], ...]:
    """Return the steps that the outputs depend on, in order."""
    wanted = Counter(outputs)
    kept = []
    for node, call in reversed(steps):
        if any(wanted[name] for name in node.outputs):
            kept.append((node, call))
            wanted.update(name for name in node.inputs if name)
    return tuple(reversed(kept))


def _constant(node: Node) -> Constant:
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in node.attributes:
            return np.array(node.attr(name), dtype)
    value = node.attr("value")
    if not isinstance(value, np.ndarray):
        node.refuse("only dense numeric constants are supported")
    return value


def _as_tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)
