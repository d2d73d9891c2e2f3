"""A model with a state of its own, as a recurrent layer is, answers every input alike."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgec_runtime import load_session

_WEIGHTS = {
    "weights": np.array([[0.5]], np.float32),
    "recurrent": np.array([[1]], np.float32),
    "bias": np.array([0], np.float32),
}


def _tensor(name: str, shape: list[int], buffer: int) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name.encode(), shape, buffer
    tensor.type = schema.TensorType.FLOAT32
    return tensor


def _recurrent() -> bytes:
    """A TFLite file of one recurrent layer: h = tanh(x / 2 + h), for three steps."""
    model, graph, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    buffers = [schema.BufferT()]
    graph.tensors = [_tensor("x", [1, 3, 1], 0)]
    for name, values in _WEIGHTS.items():
        buffers.append(schema.BufferT())
        buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
        graph.tensors.append(_tensor(name, list(values.shape), len(buffers) - 1))
    graph.tensors += [_tensor("state", [1, 1], 0), _tensor("y", [1, 3, 1], 0)]
    graph.tensors[4].isVariable = True
    operator.inputs, operator.outputs = [0, 1, 2, 3, 4], [5]
    operator.builtinOptionsType = schema.BuiltinOptions.SequenceRNNOptions
    operator.builtinOptions = schema.SequenceRNNOptionsT()
    operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.TANH
    graph.inputs, graph.outputs, graph.operators = [0], [5], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = (
        schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_RNN
    )
    code.version = 1
    model.version, model.buffers, model.subgraphs = 3, buffers, [graph]
    model.operatorCodes = [code]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_a_recurrent_layer_starts_from_zero_in_every_run() -> None:
    session = load_session(_recurrent(), "litert")
    feeds = {"x": np.ones((1, 3, 1), np.float32)}

    first, second = session.run(feeds)["y"], session.run(feeds)["y"]

    by_hand = np.tanh(0.5)
    assert np.allclose(first[0, :2, 0], [by_hand, np.tanh(0.5 + by_hand)])
    assert np.array_equal(first, second)
