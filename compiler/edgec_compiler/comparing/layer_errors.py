"""The error of every layer of a compiled model, and which layers are to blame for it."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgec_compiler.comparing.differences import Difference
from edgec_compiler.comparing.pairs import Pair, onnx_pairs, tflite_pairs
from edgec_compiler.comparing.values import onnx_values, tflite_values
from edgec_compiler.errors import ConversionError, UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.quantise.activations import Feeds
from edgec_compiler.samples import Samples
from edgec_runtime.session import Array

_WORTH_DB = 45.0  # a layer with less noise than this is never the one to blame
_SHARE = 0.2  # of the noise that the worst layer adds: what makes another one worth naming
_NAMED = 5
_IMAGE_RANK = 3  # tensors of ONNX from this rank on have their channels in axis 1


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far one layer's values lie from the float form's, over all samples.

    `added` is the noise (mean squared error per variance) that it has above the noisiest layer it
    reads from: what the layer itself is to blame for.
    """

    pair: Pair
    difference: Difference
    added: float

    @property
    def is_finite(self) -> bool:
        """Whether its noise has a bound: an error over nothing but zeros has none."""
        return bool(np.isfinite(self.difference.noise))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, six figures of each; no number is infinite."""
        noise = self.difference.noise
        return {
            "layer": self.pair.layer.name,
            "op": self.pair.layer.op,
            "float": self.pair.in_float,
            "error": None if np.isinf(noise) else _short(noise**0.5),
            "sqnr_db": _short(self.difference.sqnr_db),
            "cosine": _short(self.difference.cosine),
            "max_error": _short(self.difference.worst),
        }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def layer_errors(forms: Forms, samples: Samples, fmt: str, payload: bytes) -> list[LayerError]:
    """Return the error of every layer of the compiled model `payload`, in execution order.

    Args:
        forms: of the float model.
        samples: raw.
        fmt: of the compiled model, "tflite" or "onnx".
        payload: the compiled model's file.

    Raises:
        ConversionError: it cannot be run, or is not a form of this model.
        UsageError: it is damaged.
    """
    feeds = forms.tflite_feeds(samples) if fmt == "tflite" else forms.onnx_feeds(samples)
    pairs, runs = _both(forms, fmt, payload, feeds)
    return _measure(pairs, runs, fmt)


def blamed(errors: Sequence[LayerError]) -> tuple[str, ...]:
    """Return the layers that should stay in float, those that add most noise first.

    A layer that reads channels which the layer before it has lost in the quantised tensor between
    them gains nothing alone: that layer is then named too, so that the tensor stays float.
    """
    enough = 10 ** (-_WORTH_DB / 10)
    ranked = sorted(errors, key=lambda one: -one.added)
    found = [one for one in ranked if not one.pair.in_float and one.added > enough]
    least = _SHARE * found[0].added if found else 0.0
    by_name = {one.pair.layer.name: one for one in errors}
    names: list[str] = []
    for one in [one for one in found[:_NAMED] if one.added >= least]:
        names.append(one.pair.layer.name)
        for source in one.pair.sources:
            before = by_name[source]
            if not before.pair.in_float and before.difference.channel_noise >= one.added:
                names.append(source)
    return tuple(dict.fromkeys(names))


Runs = Iterator[tuple[list[Array | None], list[Array | None]]]


def _both(
    forms: Forms, fmt: str, payload: bytes, feeds: Iterator[Feeds]
) -> tuple[tuple[Pair, ...], Runs]:
    """Return the pairs of tensors, and their values sample by sample in both models."""
    first, second = itertools.tee(feeds)  # read in step: no more than one sample is held
    if fmt == "tflite":
        exact = forms.tflite().payload
        pairs = tflite_pairs(exact, payload)
        left = tflite_values(exact, [int(pair.exact) for pair in pairs], first)
        right = tflite_values(payload, [int(pair.made) for pair in pairs], second)
    else:
        model = forms.onnx(None)
        try:
            made = onnx.load_model_from_string(payload)
        except Exception as error:  # protobuf's errors share no base class
            raise UsageError("the bundle's model is a damaged ONNX file") from error
        pairs = onnx_pairs(model, made)
        left = onnx_values(model, [str(pair.exact) for pair in pairs], first)
        right = onnx_values(made, [str(pair.made) for pair in pairs], second)
    if not pairs:
        raise ConversionError(
            "no layer of the bundle's model is one of MODEL's: it is not its model"
        )
    return pairs, zip(left, right, strict=True)


def _measure(pairs: Sequence[Pair], runs: Runs, fmt: str) -> list[LayerError]:
    found = [Difference() for _ in pairs]
    for exact, made in runs:
        for pair, difference, x, y in zip(pairs, found, exact, made, strict=True):
            if x is None or y is None:
                continue
            if fmt == "onnx" and x.ndim >= _IMAGE_RANK:
                difference.axis = 1
            try:
                difference.add(x, y)
            except ValueError as error:
                raise ConversionError(
                    f"layer {pair.layer.name} has another size in the bundle ({error}): the bundle "
                    "was made from another model, or channels were pruned"
                ) from error
    noise = {pair.layer.name: one.noise for pair, one in zip(pairs, found, strict=True)}

    def added(pair: Pair) -> float:
        before = max((noise[name] for name in pair.sources), default=0.0)
        return max(0.0, noise[pair.layer.name] - before) if np.isfinite(before) else 0.0

    return [
        LayerError(pair, one, added(pair))
        for pair, one in zip(pairs, found, strict=True)
        if one.count
    ]
