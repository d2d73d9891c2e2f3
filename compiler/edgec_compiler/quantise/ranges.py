"""What calibration sees of every activation of a float form, and the ranges that follow.

Samples stream through one at a time and each tensor keeps two numbers and, for the methods that
clip, one histogram: memory does not grow with the data. Only activations are observed: a range for
a weight tensor would make ai-edge-quantizer quantise it per tensor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from edgec_compiler import tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.quantise.activations import (
    Feeds,
    Results,
    onnx_activations,
    tflite_activations,
)
from edgec_compiler.quantise.clipping import Range, Scheme, Seen, clipped
from edgec_compiler.quantise.histogram import Histogram
from edgec_compiler.quantise.layers import onnx_layers, tflite_layers
from edgec_compiler.quantise.scores import cut_off, onnx_scores, tflite_scores
from edgec_runtime.session import Array


@dataclass(slots=True)
class Observations:
    """What was seen of every tensor so far. `labels` are what people call tensors."""

    histograms: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    scores: frozenset[str] = frozenset()  # tensors that only softmaxes read
    seen: dict[str, Seen] = field(default_factory=dict)
    samples: int = 0  # whole ones, before the one that is under way

    def add(self, name: str, values: Array) -> None:
        """Note `values` of tensor `name`. Raises ConversionError for nan and inf."""
        if values.size == 0:
            return
        if name in self.scores:
            values = cut_off(values)
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ConversionError(self._not_finite(name, low, high))
        found = self.seen.get(name)
        if found is None:
            found = Seen(low, high, Histogram() if self.histograms else None)
            self.seen[name] = found
        found.low, found.high = min(found.low, low), max(found.high, high)
        if found.histogram is not None:
            found.histogram.add(values, max(high, -low))

    def ranges(self, method: str, scheme: Scheme) -> dict[str, Range]:
        """Return the range of every tensor by `method`, one of `recipe.METHODS`."""
        return {name: clipped(seen, method, scheme) for name, seen in self.seen.items()}

    def _not_finite(self, name: str, low: float, high: float) -> str:
        what = self.labels.get(name, f"tensor '{name}'")
        value = "nan" if np.isnan(low) else f"{low if np.isinf(low) else high:g}"
        return (
            f"calibration: sample {self.samples + 1} makes {what} {value}: the model overflows on "
            "it, or the sample itself is not finite. Check --calibration and --preprocessing"
        )

    def over(self, samples: Iterable[Results]) -> "Observations":
        """Note what all samples made and return self.

        Raises:
            ConversionError: there was no sample, or a value is nan or infinite.
        """
        for results in samples:
            for name, values in results:
                self.add(name, values)
            self.samples += 1
        if self.samples == 0:
            raise ConversionError("calibration: the data has no samples")
        return self


def observe_tflite(
    payload: bytes, samples: Iterable[Feeds], *, histograms: bool = False
) -> Observations:
    """Return what the samples make of every float activation of a float TFLite model.

    Raises:
        ConversionError: there are no samples, or one of them makes a tensor nan or infinite.
    """
    graph = tflite.parse(payload, "the float model").subgraphs[0]
    names = [tflite.tensor_name(graph.tensors[index]) for index in graph.inputs]
    labels = {layer.output: f"the output of {layer.name}" for layer in tflite_layers(payload)}
    numbered = {name: f"input {number + 1}" for number, name in enumerate(names)}
    found = Observations(histograms, labels | numbered, tflite_scores(payload))
    return found.over(tflite_activations(payload, samples))


def observe_onnx(
    model: onnx.ModelProto, samples: Iterable[Feeds], *, histograms: bool = False
) -> Observations:
    """Return what the samples make of every float activation of a float ONNX model.

    Raises:
        ConversionError: there are no samples, or one of them makes a tensor nan or infinite.
    """
    labels = {layer.output: f"the output of {layer.name}" for layer in onnx_layers(model)}
    named = {one.name: f"input '{one.name}'" for one in model.graph.input}
    found = Observations(histograms, labels | named, onnx_scores(model))
    return found.over(onnx_activations(model, samples))
