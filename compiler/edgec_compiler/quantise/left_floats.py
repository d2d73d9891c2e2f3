"""Makes integers of what ai-edge-quantizer leaves in float between integers.

1. An operator with an int8 kernel reads what is dequantised for it and makes int8, by the rules of
   `kernels`. A constant that a comparison reads gets the other side's scale.
2. CAST of booleans to float makes int8 with a scale of 1.
3. A function of one value (EXP, SIN, POW by a constant ...) without an int8 kernel on the target
   becomes a look-up: CAST and ADD turn the value into a place in a table of 256, GATHER reads it.
   This goes for int8 operators too, which the quantiser makes where the target lacks the kernel.
4. SELECT of equal shapes becomes SELECT_V2, which TFLite Micro has.

Left alone: operators on 16 bits, and those that read a float which nothing makes of integers.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.quantise.clipping import Range
from edgec_compiler.quantise.kernels import ASKING, CURVES, FIXED, MOVING
from edgec_compiler.quantise.tables import (
    Function,
    Scale,
    curve,
    quantised,
    range_of,
    scale_of,
    table,
)
from edgec_runtime.session import Array

_INTEGER = MOVING | CURVES | ASKING | FIXED.keys()


def kept_ranges(payload: bytes, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return `ranges` with those that kernels demand: else a QUANTIZE would follow on each.

    What only moves values makes the range that it reads, others the one of their fixed scale.

    Args:
        payload: the float model.
        ranges: of its activations, by tensor name.
    """
    model = tflite.parse(payload, "the float model")
    graph, kept = model.subgraphs[0], dict(ranges)
    for operator in graph.operators:
        op = tflite.op_name(model, operator)
        if op in MOVING:
            known = kept.get(tflite.tensor_name(graph.tensors[operator.inputs[0]]))
        else:
            known = range_of(*FIXED[op]) if op in FIXED else None
        for index in tflite.given(operator.outputs):
            name = tflite.tensor_name(graph.tensors[index])
            if known is not None and name in kept:
                kept[name] = known
    return kept


def without_left_floats(
    payload: bytes, ranges: Mapping[str, Range], kernels: Collection[str]
) -> bytes:
    """Return a quantised model with the operators above on integers.

    Args:
        payload: what the quantiser made, at int8.
        ranges: of the float model's activations, by tensor name.
        kernels: the operators that the target runs on int8.
    """
    model = tflite.parse(payload, "the quantised model")
    if len(model.subgraphs) > 1:
        return payload
    work = _Work(model, ranges, kernels)
    work.rewrite()
    return tflite.serialise(model) if work.changed else payload


class _Work:
    """One model under way. `stands` maps a float tensor to the int8 one that has its values."""

    def __init__(
        self, model: tflite.Flatbuffer, ranges: Mapping[str, Range], kernels: Collection[str]
    ) -> None:
        self._model, self._graph = model, model.subgraphs[0]
        self._ranges, self._kernels = ranges, frozenset(kernels)
        self._stands: dict[int, int] = {}
        self._same: dict[int, int] = {}  # int8 tensor -> the equal one that is kept
        self._made: list[Any] = []
        self.changed = False

    def rewrite(self) -> None:
        """Rewrite the model in place."""
        graph = self._graph
        for operator in graph.operators:
            operator.inputs = self._kept(operator.inputs)
            self._take(tflite.op_name(self._model, operator), operator)
        graph.outputs = self._kept(graph.outputs)
        self._end_in_integers()
        graph.operators = self._made
        graph.operators = tflite.live_operators(graph)

    def _kept(self, indices: Any) -> Any:
        given = [] if indices is None else indices
        return np.array([self._same.get(int(i), int(i)) for i in given], np.int32)

    def _end_in_integers(self) -> None:
        """Give out the integers of an output that the quantiser made float again.

        It does so where an operator that it left in float reads the output too.
        """
        ends = [self._stands.get(int(index), int(index)) for index in self._graph.outputs]
        self.changed = self.changed or ends != [int(index) for index in self._graph.outputs]
        self._graph.outputs = np.array(ends, np.int32)

    def _take(self, op: str, operator: Any) -> None:
        match op:
            case "DEQUANTIZE" if self._is_int8(int(operator.inputs[0])):
                self._stands[int(operator.outputs[0])] = int(operator.inputs[0])
                self._made.append(operator)
            case "QUANTIZE" if int(operator.inputs[0]) in self._stands:
                self._requantise(operator)
            case "CAST" if self._casts_booleans(operator):
                made = int(operator.outputs[0])
                operator.outputs = np.array([self._integer(made, (1.0, 0))], np.int32)
                self._keep(operator)
            case "SELECT" if op not in self._kernels and self._alike(operator):
                code = schema.BuiltinOperator.SELECT_V2
                operator.opcodeIndex = tflite.operator_code(self._model, code, 1)
                operator.builtinOptionsType = schema.BuiltinOptions.SelectV2Options
                operator.builtinOptions = schema.SelectV2OptionsT()
                self._keep(operator)
            case _ if (function := self._curve(op, operator)) is not None:
                self._bend(function, operator)
            case _ if op in self._kernels & _INTEGER and self._reads_integers(op, operator):
                self._make_integer(op, operator)
            case _:
                self._made.append(operator)

    def _keep(self, operator: Any) -> None:
        self._made.append(operator)
        self.changed = True

    def _requantise(self, operator: Any) -> None:
        """Leave out a QUANTIZE of what is integer already, or let it change the scale only."""
        read, made = self._stands[int(operator.inputs[0])], int(operator.outputs[0])
        if self._scale(read) == self._scale(made) and self._is_int8(made):
            self._same[made] = read
            self.changed = True
            return
        operator.inputs = np.array([read], np.int32)
        self._keep(operator)

    def _casts_booleans(self, operator: Any) -> bool:
        return self._type(operator.inputs[0]) == "bool" and self._type(operator.outputs[0]) == (
            "float32"
        )

    def _alike(self, operator: Any) -> bool:
        shapes = [self._shape(index) for index in (*operator.inputs, *operator.outputs)]
        return all(shape == shapes[0] for shape in shapes)

    def _reads_integers(self, op: str, operator: Any) -> bool:
        """Return whether every float that an operator reads is integer, or a constant asked for."""
        floats = [i for i in tflite.given(operator.inputs) if self._type(i) == "float32"]
        standing = [i for i in floats if i in self._stands]
        others = [i for i in floats if i not in self._stands]
        if not standing or (others and op not in ASKING):
            return False
        return all(self._constant(index) is not None for index in others)

    def _make_integer(self, op: str, operator: Any) -> None:
        first = next(self._stands[i] for i in map(int, operator.inputs) if i in self._stands)
        scale = self._scale(first)
        operator.inputs = np.array(
            [self._integer_input(int(index), scale) for index in operator.inputs], np.int32
        )
        outputs = []
        for index in map(int, operator.outputs):
            if self._type(index) == "float32":
                known = scale if op in MOVING else FIXED.get(op) or self._wanted(index)
                index = self._integer(index, known)
            outputs.append(index)
        operator.outputs = np.array(outputs, np.int32)
        self._keep(operator)

    def _integer_input(self, index: int, scale: Scale) -> int:
        if index < 0 or self._type(index) != "float32":
            return index
        if index in self._stands:
            return self._stands[index]
        values = self._constant(index)
        assert values is not None  # noqa: S101  _reads_integers has looked
        made = self._tensor(f"{self._name(index)}_integers", self._shape(index), scale)
        return self._fill(made, quantised(values, scale))

    def _curve(self, op: str, operator: Any) -> Function | None:
        """Return the function of one int8 value that needs a table, None if it is none."""
        if op in self._kernels or not len(operator.inputs):
            return None
        x, y = int(operator.inputs[0]), int(operator.outputs[0])
        if x not in self._stands and not (self._is_int8(x) and self._is_int8(y)):
            return None
        others = [self._constant(int(index)) for index in operator.inputs[1:]]
        return curve(op, others)

    def _bend(self, function: Function, operator: Any) -> None:
        """Put CAST, ADD and GATHER in the place of a function of one value."""
        x, y = int(operator.inputs[0]), int(operator.outputs[0])
        x = self._stands.get(x, x)
        known = self._scale(y) if self._is_int8(y) else self._wanted(y)
        made = y if self._is_int8(y) else self._integer(y, known)
        values = table(function, self._scale(x), known)
        places = self._tensor(f"{self._name(y)}_table", [values.size], known)
        self._fill(places, values)
        wide, place = (self._number(y, what) for what in ("wide", "place"))
        shift = tflite.add_integers(self._model, np.array([values.size // 2], np.int32))
        kinds, code, cast = schema.BuiltinOptions, schema.BuiltinOperator, schema.CastOptionsT()
        cast.inDataType, cast.outDataType = schema.TensorType.INT8, schema.TensorType.INT32
        self._add(code.CAST, 1, kinds.CastOptions, cast, ([x], wide))
        self._add(code.ADD, 1, kinds.AddOptions, schema.AddOptionsT(), ([wide, shift], place))
        gather = schema.GatherOptionsT()
        gather.axis = 0
        self._add(code.GATHER, 2, kinds.GatherOptions, gather, ([places, place], made))
        self.changed = True

    def _add(
        self, code: int, version: int, kind: int, options: Any, ends: tuple[list[int], int]
    ) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = tflite.operator_code(self._model, code, version)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        operator.inputs = np.array(ends[0], np.int32)
        operator.outputs = np.array([ends[1]], np.int32)
        self._made.append(operator)

    def _number(self, like: int, what: str) -> int:
        index = self._tensor(f"{self._name(like)}_{what}", self._shape(like), None)
        self._graph.tensors[index].type = schema.TensorType.INT32
        return index

    def _integer(self, index: int, scale: Scale) -> int:
        """Return a new int8 tensor that stands for a float one."""
        made = self._tensor(f"{self._name(index)}_integers", self._shape(index), scale)
        self._stands[index] = made
        return made

    def _tensor(self, name: str, shape: list[int], scale: Scale | None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name.encode(), np.array(shape, np.int32)
        tensor.type, tensor.buffer = schema.TensorType.INT8, 0
        if scale is not None:
            known = schema.QuantizationParametersT()
            known.scale = np.array([scale[0]], np.float32)
            known.zeroPoint = np.array([scale[1]], np.int64)
            tensor.quantization = known
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _fill(self, index: int, values: Array) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        self._graph.tensors[index].buffer = len(self._model.buffers) - 1
        return index

    def _wanted(self, index: int) -> Scale:
        """Return the scale of a float: that of the first QUANTIZE that reads it, or its range's."""
        for operator in self._graph.operators:
            made = int(operator.outputs[0]) if len(operator.outputs) else -1
            quantises = tflite.op_name(self._model, operator) == "QUANTIZE"
            if quantises and index in map(int, operator.inputs) and self._is_int8(made):
                return self._scale(made)
        return scale_of(*self._ranges.get(self._name(index), (0.0, 0.0)))

    def _constant(self, index: int) -> Array | None:
        tensor = self._graph.tensors[index]
        if tflite.type_name(tensor) != "float32" or not tflite.is_constant(self._model, tensor):
            return None
        return np.frombuffer(bytes(self._model.buffers[tensor.buffer].data), "<f4")

    def _scale(self, index: int) -> Scale:
        scales, zeros = tflite.quantisation(self._graph.tensors[index])
        return scales[0], zeros[0]

    def _is_int8(self, index: int) -> bool:
        return self._type(index) == "int8"

    def _type(self, index: int) -> str:
        return tflite.type_name(self._graph.tensors[index])

    def _name(self, index: int) -> str:
        return tflite.tensor_name(self._graph.tensors[index])

    def _shape(self, index: int) -> list[int]:
        shape = self._graph.tensors[index].shape
        return [] if shape is None else [int(size) for size in shape]
