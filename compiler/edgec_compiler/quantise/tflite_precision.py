"""Lower precisions of a float TFLite model, by ai-edge-quantizer under our own statistics."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgec_compiler.errors import ConversionError

Ranges = Mapping[str, tuple[float, float]]
_ALL = ".*"


def quantise(payload: bytes, precision: str, ranges: Ranges | None, *, full_integer: bool) -> bytes:
    """Return the float TFLite model in `payload` at `precision`.

    int8: int8 activations, int8 weights per channel (fully connected layers per tensor for
    full-integer accelerators). int16x8: 16-bit activations. int4: 4-bit weights of convolutions
    and fully connected layers, all else as int8. fp16: half-precision weights.

    Args:
        payload: the float model.
        precision: one of fp32, fp16, int8, int16x8, int4.
        ranges: of its activations, by tensor name; needed by the integer precisions.
        full_integer: the target executes integers only.

    Raises:
        ConversionError: the quantiser refuses the model.
    """
    if precision == "fp32":
        return payload
    from ai_edge_quantizer import recipe_manager

    recipe = recipe_manager.RecipeManager()
    _RECIPES[precision](recipe, full_integer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the quantiser keeps all tensors; that is its job
            return _run(payload, recipe, None if precision == "fp16" else ranges or {})
    except Exception as error:  # the quantiser's errors share no base class
        raise ConversionError(f"ai-edge-quantizer: {_brief(error)}") from error


def _run(payload: bytes, recipe: Any, ranges: Ranges | None) -> bytes:
    from ai_edge_quantizer import quantizer

    engine = quantizer.Quantizer(bytearray(payload))
    engine.load_quantization_recipe(recipe.get_quantization_recipe())
    statistics = None if ranges is None else _statistics(ranges)
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


def _fp16(recipe: Any, _full_integer: bool) -> None:
    from ai_edge_quantizer import algorithm_manager, qtyping

    recipe.add_weight_only_config(
        _ALL,
        qtyping.TFLOperationName.ALL_SUPPORTED,
        16,
        algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
    )


_RECIPES: dict[str, Callable[[Any, bool], None]] = {
    "fp16": _fp16,
    "int16x8": _int16x8,
    "int4": _int4,
    "int8": _int8,
}


def _statistics(ranges: Ranges) -> dict[str, dict[str, Any]]:
    return {
        name: {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}
        for name, (low, high) in ranges.items()
    }


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
