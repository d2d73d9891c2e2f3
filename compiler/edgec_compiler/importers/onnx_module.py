"""An ONNX graph as a torch module: interpreted node by node, so that torch can trace it.

Building walks the graph once on an example input. What does not depend on the input is computed
there and becomes a constant: shapes are static, so shape arithmetic disappears. What remains is a
list of operators, each a row of the operator tables. Taken: every operator in the tables, ONNX's
own functions, the model's functions, `If` with a constant condition. Refused: `Loop`, `Scan`,
sequences, foreign domains, operators whose output shape depends on data.
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
from edgec_compiler.importers.onnx_dtypes import numpy_dtype
from edgec_compiler.importers.onnx_file import array_of, attributes_of, opset_of
from edgec_compiler.importers.onnx_functions import expand
from edgec_compiler.importers.onnx_node import Constant, Node
from edgec_compiler.importers.onnx_ops import OPS
from edgec_runtime.session import ModelTensor

_MAX_NODES = 100_000  # expanded; a recursive function must not run for ever
_RANDOM = frozenset(
    {
        "RandomNormal",
        "RandomUniform",
        "RandomNormalLike",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
    }
)
_OWN_DOMAINS = ("", "ai.onnx")
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
            tensor = torch.from_numpy(np.array(value))  # numpy scalars have no memory of their own
            if tensor.is_floating_point():
                self.register_parameter(attribute, nn.Parameter(tensor))
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
        values = dict(zip(self.input_names, inputs, strict=True))
        for node, call in self.steps:
            given = [self._value(values, name) for name in node.inputs]
            results = call(node, *given)
            for name, result in zip(node.outputs, _as_tuple(results), strict=False):
                values[name] = result
        made = tuple(self._value(values, name) for name in self.output_names)
        return made[0] if len(made) == 1 else made

    def _value(self, values: dict[str, torch.Tensor], name: str) -> Any:
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
    builder = _Builder(model, example)
    with torch.no_grad():
        builder.walk(list(model.graph.node))
    return builder.finish([value.name for value in model.graph.output])


class _Builder:
    """Walks the graph on example values, folding what is constant."""

    def __init__(self, model: onnx.ModelProto, example: dict[str, torch.Tensor]) -> None:
        self.inputs = tuple(example)
        self.opset = opset_of(model)
        self.local = {(one.domain, one.name): one for one in model.functions}
        self.constants = {one.name: array_of(one) for one in model.graph.initializer}
        self.values: dict[str, torch.Tensor] = dict(example)
        self.steps: list[tuple[Node, Call]] = []
        self.walked = 0

    def walk(self, nodes: list[onnx.NodeProto]) -> None:
        for proto in nodes:
            self.walked += 1
            if self.walked > _MAX_NODES:
                raise ModelFileError(f"the graph has more than {_MAX_NODES} operators")
            self._add(proto)

    def _add(self, proto: onnx.NodeProto) -> None:
        node = self._node(proto)
        if proto.op_type == "Constant" and proto.domain in _OWN_DOMAINS:
            self.constants[proto.output[0]] = _constant(node)
        elif proto.op_type == "If":
            self._branch(node)
        elif proto.op_type in OPS and proto.domain in _OWN_DOMAINS:
            self._run(node, OPS[proto.op_type])
        else:
            types = tuple(self._type(name) for name in proto.input)
            body = expand(proto, self.opset, types, self.local)
            if body is None:
                known = "" if proto.domain in _OWN_DOMAINS else f" of domain {proto.domain}"
                node.refuse(f"this operator{known} is not supported")
            self.walk(body)

    def _node(self, proto: onnx.NodeProto) -> Node:
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
        )

    def _type(self, name: str) -> onnx.TypeProto:
        if not name:
            return onnx.TypeProto()
        value = self._example(name)
        element = onnx.helper.np_dtype_to_tensor_dtype(value.numpy().dtype)
        return onnx.helper.make_tensor_type_proto(element, list(value.shape))

    def _example(self, name: str) -> torch.Tensor:
        if name in self.values:
            return self.values[name]
        return torch.from_numpy(np.array(self.constants[name]))

    def _branch(self, node: Node) -> None:
        if not bool(np.all(node.constant(0, "condition"))):
            graph = node.attr("else_branch")
        else:
            graph = node.attr("then_branch")
        self.constants |= {one.name: array_of(one) for one in graph.initializer}
        self.walk(list(graph.node))
        for made, name in zip(graph.output, node.outputs, strict=True):
            self._add(onnx.helper.make_node("Identity", [made.name], [name]))

    def _run(self, node: Node, call: Call) -> None:
        """Run `node` on example values; keep it as a step if it depends on the input."""
        given = [self._example(name) if name else None for name in node.inputs]
        try:
            results = _as_tuple(call(node, *given))
        except (
            RuntimeError,
            ValueError,
            IndexError,
            TypeError,
            KeyError,
            NotImplementedError,
        ) as error:
            shapes = [list(value.shape) for value in given if value is not None]
            reason = str(error).strip().partition("\n")[0][:300]
            raise UnsupportedOperatorError(
                node.op, node.outputs[0], f"fails on inputs of shapes {shapes}: {reason}"
            ) from error
        fixed = node.op in ("Shape", "Size") or all(
            name in self.constants for name in node.inputs if name
        )
        for name, result in zip(node.outputs, results, strict=False):
            if fixed and node.op not in _RANDOM:
                self.constants[name] = result.numpy()
            else:
                self.values[name] = result
        if not fixed:
            self.steps.append((node, call))

    def finish(self, outputs: list[str]) -> tuple[OnnxModule, tuple[ModelTensor, ...]]:
        for name in outputs:
            if name not in self.values and name not in self.constants:
                raise ModelFileError(f"nothing makes the graph's output '{name}'")
        made = [(name, self._example(name)) for name in outputs]
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
    if (
        not isinstance(value, np.ndarray)
        or numpy_dtype(onnx.helper.np_dtype_to_tensor_dtype(value.dtype)) is None
    ):
        node.refuse("only dense numeric constants are supported")
    return value


def _as_tuple(results: Any) -> tuple[torch.Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)
