"""RELU and RELU6 of a float TFLite file as part of the layer whose result they bound.

TensorFlow's converter writes them so; others leave them operators of their own. In integers, the
layer's result would be rounded over its whole range first, whose negative half is thrown away then.

Left alone: results that something else reads too, and layers that have an activation.
"""

from collections import Counter

from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite

_ACTIVATIONS = {
    "RELU": schema.ActivationFunctionType.RELU,
    "RELU6": schema.ActivationFunctionType.RELU6,
}
_LAYERS = ("ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL", "SUB")


def with_activations(payload: bytes) -> bytes:
    """Return the model with activations in their layers; the same bytes if there are none."""
    model = tflite.parse(payload, "the source model")
    graph = model.subgraphs[0]
    readers = Counter(i for one in graph.operators for i in tflite.given(one.inputs))
    readers.update(int(index) for index in graph.outputs)
    layers = {
        int(one.outputs[0]): one
        for one in graph.operators
        if tflite.op_name(model, one) in _LAYERS and not _is_bounded(one)
    }
    taken = []
    for operator in graph.operators:
        kind = _ACTIVATIONS.get(tflite.op_name(model, operator))
        layer = None if kind is None else layers.get(int(operator.inputs[0]))
        if layer is not None and readers[int(operator.inputs[0])] == 1:
            layer.builtinOptions.fusedActivationFunction = kind
            layer.outputs = [int(operator.outputs[0])]
            taken.append(operator)
    if not taken:
        return payload
    graph.operators = [one for one in graph.operators if all(one is not gone for gone in taken)]
    return tflite.serialise(model)


def _is_bounded(operator: object) -> bool:
    options = getattr(operator, "builtinOptions", None)
    return options is None or bool(options.fusedActivationFunction)
