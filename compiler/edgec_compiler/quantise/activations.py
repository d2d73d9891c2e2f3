"""Runs a float form on samples with every operator's result kept.

The runtimes compute exactly what the file says, on one thread: neither fused nor in place, so that
each tensor is there to be read.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from edgec_compiler import tflite
from edgec_compiler.errors import ConversionError
from edgec_runtime.session import Array

Feeds = Mapping[str, Array]  # one sample: model input -> [batch, ...]
Results = Iterator[tuple[str, Array]]  # tensor, values; to be read before the next sample


def keeping_interpreter(payload: bytes) -> Any:
    """Return a LiteRT interpreter, ready to run, that keeps all tensors of a model.

    Raises:
        ConversionError: LiteRT refuses the model, as it does operators that XNNPACK alone knows.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keeping all tensors is what we are here for
            interpreter = Interpreter(
                model_content=payload,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "no reason given").rstrip(".")
        raise ConversionError(
            f"LiteRT's own kernels, which show the values inside a model, refuse it: {reason}. "
            "Take --precision fp32 or fp16, or make the model without this operator"
        ) from error
    return interpreter


def plain_session(model: onnx.ModelProto) -> Any:
    """Return an ONNX Runtime session that computes node by node.

    Raises:
        Exception: ONNX Runtime refuses the model; its errors share no base class.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def tflite_activations(payload: bytes, samples: Iterable[Feeds]) -> Iterator[Results]:
    """Yield for every sample the float activations of a float TFLite model, inputs among them."""
    model = tflite.parse(payload, "the float model")
    constants = tflite.constant_names(model)
    count = len(model.subgraphs[0].tensors)  # behind them come temporaries of kernels: any bytes
    interpreter = keeping_interpreter(payload)
    inputs = {details["name"]: details["index"] for details in interpreter.get_input_details()}
    watched = [
        (details["name"], details["index"])
        for details in interpreter.get_tensor_details()
        if details["dtype"] == np.float32
        and details["name"] not in constants
        and details["index"] < count
    ]

    def results() -> Results:
        for name, index in watched:
            try:
                value = interpreter.get_tensor(index)
            except ValueError:
                continue  # a temporary of a kernel, without data
            yield name, value

    for sample in samples:
        for name, value in sample.items():
            interpreter.set_tensor(inputs[name], value)
        interpreter.reset_all_variables()
        interpreter.invoke()
        yield results()


def onnx_activations(model: onnx.ModelProto, samples: Iterable[Feeds]) -> Iterator[Results]:
    """Yield for every sample the float activations of a float ONNX model, inputs among them."""
    session = plain_session(_with_all_outputs(model))
    made = {output.name for output in session.get_outputs() if output.type == "tensor(float)"}
    names = [name for node in model.graph.node for name in node.output if name in made]
    floats = sorted(i.name for i in session.get_inputs() if i.type == "tensor(float)")
    for sample in samples:
        given = [(name, sample[name]) for name in floats]
        results = session.run(names, dict(sample)) if names else []  # without names it gives all
        yield iter([*given, *zip(names, results, strict=True)])


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
