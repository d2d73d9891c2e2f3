"""Lower precisions of a float TFLite model, by ai-edge-quantizer under our own statistics."""

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edgec_compiler import tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.quantise.biases import with_room
from edgec_compiler.quantise.clipping import Range
from edgec_compiler.quantise.infinities import without_infinities
from edgec_compiler.quantise.left_floats import kept_ranges, without_left_floats

Ranges = Mapping[str, Range]
_ALL = ".*"
_JOINING = frozenset(
    ("CONCATENATION", "MAXIMUM", "MINIMUM", "PACK", "PADV2", "SELECT", "SELECT_V2")
)


def quantise(
    payload: bytes,
    precision: str,
    ranges: Ranges | None,
    *,
    full_integer: bool,
    float_outputs: Sequence[str] = (),
    int8_outputs: Sequence[str] = (),
    kernels: Collection[str] = (),
) -> bytes:
    """Return the float TFLite model in `payload` at `precision`.

    int8: int8 activations, int8 weights per channel (fully connected layers per tensor for
    full-integer accelerators). int16x8: 16-bit activations. int4: 4-bit weights of convolutions
    and fully connected layers, all else as int8. fp16: half-precision weights. int8-weights: int8
    weights per channel, activations float. dynamic: the same weights, and the inputs of products
    quantised by each inference's own range.

    Args:
        payload: the float model.
        precision: one of `precisions.PRECISIONS` but auto.
        ranges: of its activations, by tensor name; needed by the integer precisions.
        full_integer: the target executes integers only.
        float_outputs: the outputs of operators that stay in float.
        int8_outputs: with int4, the outputs of operators whose weights have 8 bits.
        kernels: with int8, what the target runs on integers of that which the quantiser leaves in
            float; none of it is made integer where this is empty.

    Raises:
        ConversionError: the quantiser refuses the model.
    """
    if precision == "fp32" or (ranges is not None and not ranges):  # nothing in it is a float
        return payload
    from ai_edge_quantizer import recipe_manager

    if ranges is not None:
        payload = without_infinities(payload)
    if precision in ("int8", "int4"):  # int16x8 has 64-bit biases
        payload = with_room(payload, ranges or {})
    absorbs = precision == "int8" and ranges is not None and bool(kernels)
    if absorbs:
        ranges = kept_ranges(payload, ranges or {})
    recipe = recipe_manager.RecipeManager()
    _RECIPES[precision](recipe, full_integer)
    _widen(recipe, int8_outputs)
    _keep_float(recipe, payload, float_outputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the quantiser keeps all tensors; that is its job
            made = _run(payload, recipe, ranges)
    except Exception as error:  # the quantiser's errors share no base class
        raise ConversionError(f"ai-edge-quantizer: {_brief(error)}") from error
    return without_left_floats(made, ranges or {}, kernels) if absorbs else made


def _run(payload: bytes, recipe: Any, ranges: Ranges | None) -> bytes:
    from ai_edge_quantizer import quantizer

    engine = quantizer.Quantizer(bytearray(payload))
    engine.load_quantization_recipe(recipe.get_quantization_recipe())
    statistics = None if ranges is None else _statistics(ranges, _ranks(payload))
    return bytes(engine.quantize(statistics, enable_progress_report=False).quantized_model)


def _int8(recipe: Any, full_integer: bool) -> None:
    from ai_edge_quantizer import qtyping

    ops = qtyping.TFLOperationName
    recipe.add_static_config(_ALL, ops.ALL_SUPPORTED, 8, 8)
    if full_integer:
        per_tensor = qtyping.QuantGranularity.TENSORWISE
        recipe.add_static_config(_ALL, ops.FULLY_CONNECTED, 8, 8, weight_granularity=per_tensor)


def _int16x8(recipe: Any, _full_integer: bool) -> None:
    from ai_edge_quantizer import qtyping

    recipe.add_static_config(_ALL, qtyping.TFLOperationName.ALL_SUPPORTED, 16, 8)


def _int4(recipe: Any, full_integer: bool) -> None:
    from ai_edge_quantizer import qtyping

    _int8(recipe, full_integer)
    for op in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.FULLY_CONNECTED):
        recipe.add_static_config(_ALL, op, 8, 4)


def _widen(recipe: Any, outputs: Sequence[str]) -> None:
    """Give the weights of the operators that make tensors `outputs` 8 bits: the last rule wins."""
    from ai_edge_quantizer import qtyping

    for output in outputs:
        for op in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.FULLY_CONNECTED):
            recipe.add_static_config(_named(output), op, 8, 8)


def _named(output: str) -> str:
    return f"^{re.escape(output)};"  # the quantiser ends every output's name with a semicolon


def _fp16(recipe: Any, _full_integer: bool) -> None:
    from ai_edge_quantizer import algorithm_manager, qtyping

    recipe.add_weight_only_config(
        _ALL,
        qtyping.TFLOperationName.ALL_SUPPORTED,
        16,
        algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
    )


def _int8_weights(recipe: Any, _full_integer: bool) -> None:
    from ai_edge_quantizer import qtyping

    recipe.add_weight_only_config(_ALL, qtyping.TFLOperationName.ALL_SUPPORTED, 8)


def _dynamic(recipe: Any, _full_integer: bool) -> None:
    from ai_edge_quantizer import qtyping

    recipe.add_dynamic_config(_ALL, qtyping.TFLOperationName.ALL_SUPPORTED, 8)


_RECIPES: dict[str, Callable[[Any, bool], None]] = {
    "dynamic": _dynamic,
    "fp16": _fp16,
    "int16x8": _int16x8,
    "int4": _int4,
    "int8": _int8,
    "int8-weights": _int8_weights,
}


def _keep_float(recipe: Any, payload: bytes, outputs: Sequence[str]) -> None:
    """Take the operators that make tensors `outputs` out of a recipe: the last rule wins.

    Where such an operator reads the model's input or makes its output, the model's inputs, or its
    outputs, become floats: in integers they would lose what the layer shall keep.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping

    ops, keep = qtyping.TFLOperationName, algorithm_manager.AlgorithmName.NO_QUANTIZE
    for output in outputs:
        recipe.add_quantization_config(_named(output), ops.ALL_SUPPORTED, algorithm_key=keep)
    graph = tflite.parse(payload, "the float model").subgraphs[0]
    made = {tflite.tensor_name(tensor): index for index, tensor in enumerate(graph.tensors)}
    kept = {made[output] for output in outputs}
    left = [one for one in graph.operators if kept & {int(index) for index in one.outputs}]
    read = {index for one in left for index in tflite.given(one.inputs)}
    if read & {int(index) for index in graph.inputs}:
        recipe.add_quantization_config(_ALL, ops.INPUT, algorithm_key=keep)
    if kept & {int(index) for index in graph.outputs}:
        recipe.add_quantization_config(_ALL, ops.OUTPUT, algorithm_key=keep)


def _statistics(ranges: Ranges, ranks: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return the ranges as the quantiser takes them, of one axis or of as many as `ranks` has."""
    sizes = {name: (1,) * ranks.get(name, 1) for name in ranges}
    return {
        name: {
            "min": np.full(sizes[name], low, np.float32),
            "max": np.full(sizes[name], high, np.float32),
        }
        for name, (low, high) in ranges.items()
    }


def _ranks(payload: bytes) -> dict[str, int]:
    """Return the ranks of the constants that take over the scale of what they are joined into.

    By the name of that. The quantiser brings a scale to such a constant only if it has its rank,
    or if both have one axis.
    """
    model = tflite.parse(payload, "the float model")
    tensors, found = model.subgraphs[0].tensors, {}
    for operator in model.subgraphs[0].operators:
        read = [tensors[index] for index in tflite.given(operator.inputs)]
        ranks = [len(one.shape) for one in read if _is_joined(model, one)]
        if ranks and tflite.op_name(model, operator) in _JOINING:
            found[tflite.tensor_name(tensors[operator.outputs[0]])] = max([1, *ranks])
    return found


def _is_joined(model: tflite.Flatbuffer, tensor: Any) -> bool:
    is_float = tflite.type_name(tensor) == "float32" and tensor.shape is not None
    return is_float and tflite.is_constant(model, tensor)


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
