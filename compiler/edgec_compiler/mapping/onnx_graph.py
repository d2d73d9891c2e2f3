"""Reads an ONNX file into a `ModelGraph`: ``python -m edgec_compiler.mapping.onnx_graph FILE``.

Shapes come from ONNX's own inference, which is native code; `opening` therefore runs this module in
a child process and reads the graph as JSON from its stdout.
"""

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper, shape_inference

from edgec_compiler.errors import CompilerError
from edgec_compiler.importers import onnx_file
from edgec_compiler.importers.onnx_dtypes import numpy_dtype, type_name
from edgec_compiler.importers.shapes import parse_shapes
from edgec_compiler.mapping.graph import Fact, ModelGraph, Operator, Tensor
from edgec_compiler.mapping.shape_facts import general_facts, resize_scale

_OWN_DOMAINS = ("", "ai.onnx")
_MAX_VALUES = 1 << 12
_AXES_INPUT = {"ReduceMean": 1, "ReduceSum": 1, "ReduceMax": 1, "ReduceMin": 1}
_PAIRS = {"strides": "stride", "dilations": "dilation", "kernel_shape": "kernel"}


def read_onnx_graph(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> ModelGraph:
    """Return the graph of an ONNX file with every shape that can be inferred.

    Raises:
        ModelFileError: not an ONNX file, or a damaged one.
        UsageError: an input has free sizes that `shapes` does not fix.
    """
    model = onnx_file.read_onnx(path).model
    inputs = onnx_file.inputs_of(model, shapes)
    return graph_of_bytes(onnx_file.with_shapes(model, inputs))


def graph_of_bytes(payload: bytes) -> ModelGraph:
    """Return the graph of a whole ONNX file whose inputs have fixed shapes."""
    model = onnx.ModelProto.FromString(payload)
    with contextlib.suppress(shape_inference.InferenceError):  # what it leaves stays unknown
        model = shape_inference.infer_shapes(model, data_prop=True)
    return _Reader(model).graph()


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.output:
                values = [a.t for a in node.attribute if a.name == "value"]
                self._constants |= {node.output[0]: values[0]} if values else {}
        self._infos = {
            value.name: value.type.tensor_type
            for value in (*model.graph.input, *model.graph.output, *model.graph.value_info)
        }
        self._numbers: dict[str, int] = {}
        self._tensors: list[Tensor] = []

    def graph(self) -> ModelGraph:
        operators = tuple(self._operator(i, node) for i, node in enumerate(self._graph.node))
        given = [v.name for v in self._graph.input if v.name not in self._constants]
        inputs = tuple(self._number(name) for name in given)
        outputs = tuple(self._number(value.name) for value in self._graph.output)
        return ModelGraph("onnx", tuple(self._tensors), operators, inputs, outputs)

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._tensors)
            self._tensors.append(self._tensor(name))
        return self._numbers[name]

    def _tensor(self, name: str) -> Tensor:
        constant = self._constants.get(name)
        if constant is not None:
            return Tensor(name, _dtype(constant.data_type), tuple(constant.dims), True)
        info = self._infos.get(name)
        if info is None:
            return Tensor(name, "unknown", None, False)
        shape = None
        if info.HasField("shape"):
            shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in info.shape.dim)
        return Tensor(name, _dtype(info.elem_type), shape, False)

    def _operator(self, index: int, node: onnx.NodeProto) -> Operator:
        name = node.op_type if node.domain in _OWN_DOMAINS else f"{node.domain}.{node.op_type}"
        inputs = tuple(self._number(one) for one in node.input if one)
        outputs = tuple(self._number(one) for one in node.output if one)
        given, made = ([self._tensors[i] for i in numbers] for numbers in (inputs, outputs))
        facts = general_facts(given, made, channel_axis=1) | self._facts(node, given, made)
        return Operator(index, name, None, inputs, outputs, facts)

    def _facts(
        self, node: onnx.NodeProto, given: list[Tensor], made: list[Tensor]
    ) -> dict[str, Fact]:
        attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}
        facts: dict[str, Fact] = {k: v for k, v in attributes.items() if v is not None}
        if node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool"):
            facts |= _window(facts, given)
        axes = self._axes(node, facts, given)
        if axes is not None:
            facts["axes"] = axes
            sizes = given[0].shape or ()
            facts["reduced_elements"] = prod([sizes[axis] for axis in axes])
        if node.op_type in ("Resize", "Upsample") and made:
            facts |= _resize(facts, given[0].shape, made[0].shape)
        if node.op_type in ("Gemm", "MatMul", "Conv", "ConvTranspose") and len(given) > 1:
            facts["weights_constant"] = given[1].constant
        return facts

    def _axes(
        self, node: onnx.NodeProto, facts: dict[str, Fact], given: list[Tensor]
    ) -> tuple[int, ...] | None:
        """Return the axes that an operator names, counted from 0, if its input's rank is known."""
        if not given or given[0].shape is None or not given[0].is_static:
            return None
        axes: Any = facts.get("axes", facts.get("axis"))
        place = _AXES_INPUT.get(node.op_type)
        if axes is None and place is not None and len(node.input) > place:
            axes = self._values(node.input[place])
        axes = (axes,) if isinstance(axes, int) else axes
        rank = len(given[0].shape)
        if not isinstance(axes, tuple) or not all(-rank <= axis < rank for axis in axes):
            return None
        return tuple(sorted({axis % rank for axis in axes}))

    def _values(self, name: str) -> tuple[int, ...] | None:
        constant = self._constants.get(name)
        if constant is None or prod(constant.dims) > _MAX_VALUES:
            return None
        return tuple(int(value) for value in numpy_helper.to_array(constant).ravel())


def _window(facts: Mapping[str, Fact], given: list[Tensor]) -> dict[str, Fact]:
    found: dict[str, Fact] = {"stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1}
    for attribute, name in _PAIRS.items():
        value = facts.get(attribute)
        if isinstance(value, tuple) and len(value) == 2:
            found |= {f"{name}_h": value[0], f"{name}_w": value[1]}
    if "kernel_h" not in found and len(given) > 1:
        shape = given[1].shape
        if shape is not None and len(shape) == 4:
            found |= {"kernel_h": shape[2], "kernel_w": shape[3]}
    return found


def _resize(
    facts: Mapping[str, Fact], old: tuple[int, ...] | None, new: tuple[int, ...] | None
) -> dict[str, Fact]:
    if old is None or new is None or len(old) != 4 or len(new) != 4 or min(*old, *new) < 1:
        return {}
    corners = facts.get("coordinate_transformation_mode") == "align_corners"
    return resize_scale((old[2], old[3]), (new[2], new[3]), align_corners=corners)


def _plain(value: Any) -> Fact | None:
    """Return an attribute's value as a fact; None for tensors and graphs."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, int) for one in value):
        return tuple(int(one) for one in value)
    return None


def _dtype(number: int) -> str:
    dtype = numpy_dtype(number)
    return type_name(number).lower() if dtype is None else dtype.name


def main() -> int:
    """Print the graph, or {"error": ..., "exit_code": ...}, as JSON."""
    try:
        graph = read_onnx_graph(Path(sys.argv[1]), parse_shapes(sys.argv[2:]))
        json.dump(asdict(graph), sys.stdout)
    except CompilerError as error:
        json.dump({"error": str(error), "exit_code": error.exit_code}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
