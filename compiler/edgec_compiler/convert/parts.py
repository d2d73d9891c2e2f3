"""Operators that are put into a float TFLite model for another one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite

NO_ACTIVATION = schema.ActivationFunctionType.NONE


class Parts:
    """The operators that stand for one, in order. Tensors are numbers; results are like `made`."""

    def __init__(self, model: tflite.Flatbuffer, graph: Any, made: Any) -> None:
        self.model, self._graph, self._made = model, graph, made
        self.operators: list[Any] = []

    def add(self, x: int, y: int, into: int | None = None, activation: int = NO_ACTIVATION) -> int:
        """Return the tensor of x + y, which is `into` if that is given."""
        options = schema.AddOptionsT()
        options.fusedActivationFunction = activation
        return self._operator(
            schema.BuiltinOperator.ADD, schema.BuiltinOptions.AddOptions, options, (x, y), into
        )

    def mul(self, x: int, y: int, into: int | None = None, activation: int = NO_ACTIVATION) -> int:
        """Return the tensor of x * y, which is `into` if that is given."""
        options, kind = schema.MulOptionsT(), schema.BuiltinOptions.MulOptions
        options.fusedActivationFunction = activation
        return self._operator(schema.BuiltinOperator.MUL, kind, options, (x, y), into)

    def maximum(self, x: int, y: int) -> int:
        """Return the tensor of max(x, y)."""
        options, kind = schema.MaximumMinimumOptionsT(), schema.BuiltinOptions.MaximumMinimumOptions
        return self._operator(schema.BuiltinOperator.MAXIMUM, kind, options, (x, y))

    def relu(self, x: int) -> int:
        """Return the tensor of max(x, 0)."""
        return self._operator(schema.BuiltinOperator.RELU, schema.BuiltinOptions.NONE, None, (x,))

    def logistic(self, x: int) -> int:
        """Return the tensor of 1 / (1 + exp(-x))."""
        return self._operator(
            schema.BuiltinOperator.LOGISTIC, schema.BuiltinOptions.NONE, None, (x,)
        )

    def opposite(self, x: int) -> int:
        """Return the tensor of -x, a constant if x is one."""
        tensor = self._graph.tensors[x]
        data = self.model.buffers[tensor.buffer].data
        if data is None or not len(data):
            return self._operator(
                schema.BuiltinOperator.MUL,
                schema.BuiltinOptions.MulOptions,
                schema.MulOptionsT(),
                (x, self.number(-1)),
                self._tensor(tensor.shape, 0),
            )
        return self._constant(-np.frombuffer(bytes(data), np.float32), tensor.shape)

    def number(self, value: float) -> int:
        """Return a constant of one number."""
        return self._constant(np.array([value], np.float32), np.array([1], np.int32))

    def _constant(self, values: Any, shape: Any) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return self._tensor(shape, len(self.model.buffers) - 1)

    def _operator(
        self,
        builtin: int,
        kind: int,
        options: Any,
        inputs: tuple[int, ...],
        into: int | None = None,
    ) -> int:
        made = self._tensor(self._made.shape, 0) if into is None else into
        operator = schema.OperatorT()
        operator.opcodeIndex = tflite.operator_code(self.model, builtin, 1)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([made], np.int32)
        self.operators.append(operator)
        return made

    def _tensor(self, shape: Any, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name = f"t{len(self._graph.tensors)}_written_out".encode()
        tensor.shape, tensor.type, tensor.buffer = shape, schema.TensorType.FLOAT32, buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def sub(self, x: int, y: int, into: int | None = None) -> int:
        """Return the tensor of x - y, which is `into` if that is given."""
        kind = schema.BuiltinOptions.SubOptions
        return self._operator(schema.BuiltinOperator.SUB, kind, schema.SubOptionsT(), (x, y), into)

    def tanh(self, x: int) -> int:
        """Return the tensor of tanh(x)."""
        return self._operator(schema.BuiltinOperator.TANH, schema.BuiltinOptions.NONE, None, (x,))

    def polynomial(self, x: int, factors: Sequence[float]) -> int:
        """Return the tensor of factors[0] + factors[1] x + factors[2] x^2 ..., by Horner's rule."""
        made = self.add(self.mul(x, self.number(factors[-1])), self.number(factors[-2]))
        for factor in factors[-3::-1]:
            made = self.add(self.mul(x, made), self.number(factor))
        return made

    def slice(self, x: int, begin: list[int], size: list[int]) -> int:
        """Return the tensor of the part of x that starts at `begin`."""
        options, kind = schema.SliceOptionsT(), schema.BuiltinOptions.SliceOptions
        ends = [tflite.add_integers(self.model, np.array(one, np.int32)) for one in (begin, size)]
        made = self._tensor(np.array(size, np.int32), 0)
        return self._operator(schema.BuiltinOperator.SLICE, kind, options, (x, *ends), made)

    def gather(self, x: int, places: int, into: int) -> None:
        """Pick rows of x by the integers `places`, to `into`."""
        options, kind = schema.GatherOptionsT(), schema.BuiltinOptions.GatherOptions
        self._operator(schema.BuiltinOperator.GATHER, kind, options, (x, places), into)

    def concatenation(self, parts: Sequence[int], axis: int, into: int) -> None:
        """Join tensors along an axis to the tensor `into`."""
        options, kind = schema.ConcatenationOptionsT(), schema.BuiltinOptions.ConcatenationOptions
        options.axis = axis
        code = schema.BuiltinOperator.CONCATENATION
        self._operator(code, kind, options, tuple(parts), into)

    def transposed_convolution(self, x: int, weights: Any, stride: int, into: int) -> None:
        """Convolve x with float weights [out, height, width, in], transposed, to `into`."""
        options, kind = schema.TransposeConvOptionsT(), schema.BuiltinOptions.TransposeConvOptions
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, stride, stride
        sizes = np.array(self.shape(into), np.int32)
        ends = (
            tflite.add_integers(self.model, sizes),
            self._constant(weights.astype(np.float32), np.array(weights.shape, np.int32)),
            x,
        )
        self._operator(schema.BuiltinOperator.TRANSPOSE_CONV, kind, options, ends, into)

    def convolution(
        self, x: int, kernel: int, bias: int, shape: list[int], activation: int = NO_ACTIVATION
    ) -> int:
        """Return the tensor, of `shape`, of x convolved with a kernel [out, 1, 1, in]."""
        options, kind = schema.Conv2DOptionsT(), schema.BuiltinOptions.Conv2DOptions
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = activation
        made = self._tensor(np.array(shape, np.int32), 0)
        code = schema.BuiltinOperator.CONV_2D
        return self._operator(code, kind, options, (x, kernel, bias), made)

    def reshape(self, x: int, shape: list[int], into: int | None = None) -> int:
        """Return the tensor of x in another shape, which is `into` if that is given."""
        options, kind = schema.ReshapeOptionsT(), schema.BuiltinOptions.ReshapeOptions
        sizes = np.array(shape, np.int32)
        options.newShape = sizes
        made = self._tensor(sizes, 0) if into is None else into
        ends = (x, tflite.add_integers(self.model, sizes))
        return self._operator(schema.BuiltinOperator.RESHAPE, kind, options, ends, made)

    def viewed(self, x: int, shape: list[int]) -> int:
        """Return a constant with the values of the constant x, in another shape: x if nobody else
        reads it.
        """
        tensor, sizes = self._graph.tensors[x], np.array(shape, np.int32)
        if sum(x in tflite.given(operator.inputs) for operator in self._graph.operators) > 1:
            return self._constant(self.model.buffers[tensor.buffer].data, sizes)
        tensor.shape = sizes
        return x

    def zeros(self, size: int) -> int:
        """Return a constant of `size` zeros."""
        return self._constant(np.zeros(size, np.float32), np.array([size], np.int32))

    def is_constant(self, x: int) -> bool:
        """Return whether a tensor's values are in the file."""
        data = self.model.buffers[self._graph.tensors[x].buffer].data
        return data is not None and len(data) > 0

    def maker(self, index: int, op: str) -> list[int] | None:
        """Return what the operator `op` reads that makes a tensor, None if another makes it."""
        for operator in self._graph.operators:
            if index in tflite.given(operator.outputs):
                same = tflite.op_name(self.model, operator) == op
                return [int(one) for one in operator.inputs] if same else None
        return None

    def value(self, index: int) -> float | None:
        """Return the number that a constant of one element is, None if it is none."""
        tensor = self._graph.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        if data is None or len(data) != np.dtype(np.float32).itemsize:
            return None
        return float(np.frombuffer(bytes(data), "<f4")[0])

    def shape(self, index: int) -> list[int]:
        """Return the sizes of a tensor."""
        return [int(size) for size in self._graph.tensors[index].shape]
