"""MediaPipe's Convolution2DTransposeBias as TRANSPOSE_CONV, which has had a bias since version 3.

The custom operator is XNNPACK's alone: interpreters without it, quantisers and accelerators refuse
it. Left alone: free sizes, and options of another form.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite

_CUSTOM = "Convolution2DTransposeBias"
_PADDINGS = {1: schema.Padding.SAME, 2: schema.Padding.VALID}  # TfLitePadding


def name_transposed(model: tflite.Flatbuffer) -> tuple[str, ...]:
    """Rewrite the operators in place; return a note if there were any."""
    graph = model.subgraphs[0]
    found = [
        (operator, options)
        for operator in graph.operators
        if tflite.op_name(model, operator) == _CUSTOM and (options := _options(graph, operator))
    ]
    for operator, options in found:
        x, weights, bias = (int(index) for index in operator.inputs)
        sizes = np.array(graph.tensors[operator.outputs[0]].shape, np.int32)
        operator.inputs = [tflite.add_integers(model, sizes), weights, x, bias]
        code = schema.BuiltinOperator.TRANSPOSE_CONV
        operator.opcodeIndex = tflite.operator_code(model, code, 3)
        operator.builtinOptionsType = schema.BuiltinOptions.TransposeConvOptions
        operator.builtinOptions, operator.customOptions = options, None
    return (f"{_CUSTOM} ({len(found)}) is read as TRANSPOSE_CONV",) if found else ()


def _options(graph: Any, operator: Any) -> Any:
    """Return the options that are stored as three numbers: padding, width and height of a step."""
    stored = b"" if operator.customOptions is None else bytes(operator.customOptions)
    shape = graph.tensors[operator.outputs[0]].shape
    if len(stored) != 12 or len(operator.inputs) != 3 or shape is None or min(shape) < 1:
        return None
    padding, width, height = (int(n) for n in np.frombuffer(stored, "<i4"))
    if padding not in _PADDINGS:
        return None
    options = schema.TransposeConvOptionsT()
    options.padding, options.strideW, options.strideH = _PADDINGS[padding], width, height
    return options
