"""Writes one operator of an ONNX graph out in others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Nodes = list[onnx.NodeProto]


class NotWritableError(Exception):
    """This form of the operator is not known."""


class Writer:
    """Collects the nodes that one operator becomes."""

    def __init__(self, node: onnx.NodeProto, types: Sequence[onnx.TypeProto] = ()) -> None:
        self.node, self.nodes = node, Nodes()
        self._types = types
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def input(self, index: int) -> str:
        """Return the name of an input, "" where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def shape(self, index: int) -> list[int]:
        """Return the shape of an input.

        Raises:
            NotWritableError: it is not known.
        """
        kind = self._types[index].tensor_type if index < len(self._types) else None
        if kind is None or not kind.HasField("shape"):
            raise NotWritableError
        return [int(one.dim_value) for one in kind.shape.dim]

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Return a constant."""
        return self.op("Constant", [], value=numpy_helper.from_array(np.array(values, dtype)))

    def text(self, name: str) -> str:
        """Return an attribute as text, "" where it is left out."""
        value = self.attributes.get(name, b"")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def op(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add an operator; return its output, which is called `output` if that is given."""
        output = output or f"{self.node.output[0]}/{kind}:{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def real(self, first: int, axis: int | None = None) -> str:
        """Dequantise the inputs value, scale, zero point from number `first` on."""
        given = [name for name in map(self.input, range(first, first + 3)) if name]
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        return self.op("DequantizeLinear", given, **attributes)

    def coded(self, value: str, first: int) -> None:
        """Quantise the result by the inputs scale, zero point from number `first` on."""
        given = [name for name in map(self.input, (first, first + 1)) if name]
        self.op("QuantizeLinear", [value, *given], self.node.output[0])

    def kept(self, *names: str) -> dict[str, Any]:
        """Return those of the operator's attributes that the float operator has too."""
        return {name: self.attributes[name] for name in names if name in self.attributes}
