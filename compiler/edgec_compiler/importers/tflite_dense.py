"""Sparse constants of a float TFLite file as the dense ones that DENSIFY makes of them.

Nobody knows DENSIFY but interpreters: quantisers take its results for activations, which no
convolution may have as its weights.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.quantise.activations import keeping_interpreter


def with_dense_values(payload: bytes) -> bytes:
    """Return the model without DENSIFY; the same bytes if it has none.

    Raises:
        ConversionError: LiteRT's own kernels cannot run the model.
    """
    model = tflite.parse(payload, "the source model")
    graph = model.subgraphs[0]
    found = [one for one in graph.operators if tflite.op_name(model, one) == "DENSIFY"]
    if not found:
        return payload
    interpreter = keeping_interpreter(payload)
    for one in interpreter.get_input_details():
        interpreter.set_tensor(one["index"], np.zeros(one["shape"], one["dtype"]))
    interpreter.invoke()
    for operator in found:
        sparse, dense = (graph.tensors[int(i)] for i in (operator.inputs[0], operator.outputs[0]))
        values = np.ascontiguousarray(interpreter.get_tensor(int(operator.outputs[0])))
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        model.buffers.append(buffer)
        dense.buffer = len(model.buffers) - 1
        sparse.buffer, sparse.sparsity = 0, None
    graph.operators = [one for one in graph.operators if all(one is not gone for gone in found)]
    return tflite.serialise(model)
