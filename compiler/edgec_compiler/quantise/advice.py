"""What people shall hear about a quantised model before its accuracy surprises them.

Each note answers a complaint that quantisers earn: ranges learnt from a handful of samples, ranges
cut without a word, convolutions quantised by the range of one image, layers left in float.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from edgec_compiler.quantise.clipping import Range
from edgec_compiler.quantise.layers import Layer
from edgec_compiler.quantise.onnx_weights import RECURRENT
from edgec_compiler.recipe import Recipe
from edgec_runtime.data import Data
from edgec_runtime.processing import RawInput

FEW_SAMPLES = 32  # below, ranges miss what typical inputs do; about 100 are advised
_CUT = 0.5  # of the range that was seen: what is left when clipping is worth a word
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "Conv", "ConvTranspose")


def on_samples(data: Data) -> tuple[str, ...]:
    """Return a note if the calibration samples are few, or all the same."""
    count = len(data)
    if count > 1 and all(_alike(value) for value in data.inputs.values()):
        return (f"all {count} calibration samples are the same: ranges cannot be learnt from them",)
    if count >= FEW_SAMPLES:
        return ()
    samples = "sample" if count == 1 else "samples"
    return (f"only {count} calibration {samples}: ranges may be too narrow, take about 100",)


def _alike(rows: RawInput) -> bool:
    return isinstance(rows, np.ndarray) and all(np.array_equal(row, rows[0]) for row in rows)


def on_clipping(
    recipe: Recipe, ranges: Mapping[str, Range], whole: Mapping[str, Range], layers: Sequence[Layer]
) -> tuple[str, ...]:
    """Return a note on tensors that lose half of their range or more to the calibration method."""
    left = {
        layer.name: _span(ranges[layer.output]) / _span(whole[layer.output])
        for layer in layers
        if layer.output in ranges and _span(whole[layer.output]) > 0
    }
    cut = sorted((share, name) for name, share in left.items() if share < _CUT)
    if not cut:
        return ()
    share, name = cut[0]
    return (
        f"{recipe.method} cuts {len(cut)} of {len(left)} tensors to less than half of what was "
        f"seen, most that of {name} (to {share:.0%})",
    )


def on_dynamic(recipe: Recipe, fmt: str, layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return a note on convolutions in a model that is quantised dynamically."""
    count = sum(layer.op in _CONVOLUTIONS for layer in layers)
    if recipe.precision != "dynamic" or not count:
        return ()
    if fmt == "onnx":
        return (
            f"dynamic: {count} convolutions stay in float; int8 or int8-weights takes them too",
        )
    return (
        f"dynamic: {count} convolutions take the range of each input as it comes, which depthwise "
        "ones suffer from; int8 with --calibration is safer and faster",
    )


def on_recurrent(recipe: Recipe, layers: Sequence[Layer], *, narrow: bool) -> tuple[str, ...]:
    """Return a note on recurrent layers of an ONNX model, which integer precisions pass over."""
    integers = recipe.precision not in ("fp32", "fp16", "int8-weights")
    own = [one for one in layers if one.op in RECURRENT]
    if recipe.precision == "dynamic":  # it has a kernel for that one
        own = [one for one in own if one.op != "LSTM"]
    if not integers or not own:
        return ()
    names = " and ".join(sorted({one.op for one in own}))
    weights = "their weights are stored in 8 bits" if narrow else "with weights in float"
    return (f"{recipe.precision}: layers of {names} compute in float, {weights}",)


def _span(found: Range) -> float:
    return found[1] - found[0]
