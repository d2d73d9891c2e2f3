"""Ranges of activations: the true least and greatest value of every tensor over all samples.

Samples stream through one at a time, so memory does not grow with the data. Only activations are
observed: a range for a weight tensor would make ai-edge-quantizer quantise it per tensor.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from edgec_compiler import tflite
from edgec_compiler.errors import ConversionError
from edgec_runtime.session import Array

Feeds = Mapping[str, Array]  # one sample: model input -> [1, ...]


@dataclass(slots=True)
class MinMax:
    """The range of every tensor seen so far."""

    ranges: dict[str, tuple[float, float]]

    def add(self, name: str, values: Array) -> None:
        """Widen the range of `name` to hold `values`. Raises ConversionError for nan and inf."""
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ConversionError(f"calibration makes tensor '{name}' {low} to {high}")
        before = self.ranges.get(name, (low, high))
        self.ranges[name] = (min(before[0], low), max(before[1], high))


def observe_tflite(payload: bytes, samples: Iterable[Feeds]) -> dict[str, tuple[float, float]]:
    """Return the range of every float activation of a float TFLite model, by tensor name."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    constants = tflite.constant_names(tflite.parse(payload, "the float model"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keeping all tensors is what we are here for
        interpreter = Interpreter(
            model_content=payload,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    interpreter.allocate_tensors()
    inputs = {details["name"]: details["index"] for details in interpreter.get_input_details()}
    watched = [
        (details["name"], details["index"])
        for details in interpreter.get_tensor_details()
        if details["dtype"] == np.float32 and details["name"] not in constants
    ]
    seen = MinMax({})
    for sample in samples:
        for name, value in sample.items():
            interpreter.set_tensor(inputs[name], value)
        interpreter.invoke()
        for name, index in watched:
            try:
                value = interpreter.get_tensor(index)
            except ValueError:
                continue  # a temporary of a kernel, without data
            seen.add(name, value)
    return seen.ranges


def observe_onnx(
    model: onnx.ModelProto, samples: Iterable[Feeds]
) -> dict[str, tuple[float, float]]:
    """Return the range of every float activation of a float ONNX model, by tensor name."""
    import onnxruntime

    watched = _with_all_outputs(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs() if output.type == "tensor(float)"]
    floats = {i.name for i in session.get_inputs() if i.type == "tensor(float)"}
    seen = MinMax({})
    for sample in samples:
        for name in floats:
            seen.add(name, sample[name])
        for name, value in zip(names, session.run(names, dict(sample)), strict=True):
            seen.add(name, value)
    return seen.ranges


def _with_all_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` that puts out every operator's result."""
    copy = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value for value in copy.graph.value_info}
    already = {value.name for value in copy.graph.output}
    for node in copy.graph.node:
        for name in node.output:
            if name and name not in already and name in known:
                copy.graph.output.append(known[name])
    return copy
