"""How far a model's raw outputs lie from the float model's, sample by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec_compiler.errors import ConversionError
from edgec_compiler.requantise.layer import Array, Floats
from edgec_runtime.errors import RunError
from edgec_runtime.session import ModelTensor, load_session

Feeds = Mapping[str, Array]  # one float sample: model input -> [1, ...]


def answers(payload: bytes, runtime: str, samples: Sequence[Feeds]) -> Floats:
    """Return all outputs [samples, values] in real units, computed exactly as the file says.

    Graph optimisation is off: x86 kernels without VNNI saturate, and that noise hides everything.
    Float samples are quantised where the model takes integers.

    Raises:
        ConversionError: the runtime refuses the model.
    """
    try:
        session = load_session(payload, runtime, optimise=False)
        try:
            rows = [
                _flat(session.run(_feeds(session.inputs, one)), session.outputs) for one in samples
            ]
        finally:
            session.close()
    except RunError as error:
        raise ConversionError(f"requantise: {error}") from error
    return np.stack(rows)


def _feeds(inputs: Sequence[ModelTensor], sample: Feeds) -> dict[str, Array]:
    return {
        tensor.name: _quantised(value, tensor)
        for tensor, value in zip(inputs, sample.values(), strict=True)
    }


def _quantised(value: Array, tensor: ModelTensor) -> Array:
    if tensor.scale is None or value.dtype.kind != "f":
        return value
    info = np.iinfo(tensor.dtype)
    steps = np.rint(value / np.float32(tensor.scale)) + (tensor.zero_point or 0)
    made: Array = np.clip(steps, info.min, info.max).astype(tensor.dtype)
    return made


def _flat(made: Mapping[str, Array], outputs: Sequence[ModelTensor]) -> Floats:
    parts = []
    for tensor in outputs:
        value = made[tensor.name].astype(np.float64).reshape(-1)
        if tensor.scale is not None:
            value = (value - (tensor.zero_point or 0)) * tensor.scale
        parts.append(value)
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The float model's answers to the samples by which a compile is judged."""

    runtime: str
    samples: Sequence[Feeds]
    exact: Floats  # [samples, values]
    spread: Floats  # [values] or [1]: what an error of 1 means

    @classmethod
    def of(cls, payload: bytes, runtime: str, samples: Sequence[Feeds]) -> "Yardstick":
        """Return the yardstick of the float model `payload`."""
        exact = answers(payload, runtime, samples)
        return cls(runtime, samples, exact, np.maximum(exact.std(keepdims=True), 1e-12))

    def squares(self, payload: bytes) -> Floats:
        """Return each sample's mean squared error, in squared standard deviations of the output."""
        error = self.errors(payload) / self.spread
        found: Floats = np.square(error).mean(axis=1)
        return found

    def errors(self, payload: bytes) -> Floats:
        """Return the errors [samples, values] of the model's outputs, in real units."""
        found: Floats = answers(payload, self.runtime, self.samples) - self.exact
        return found

    def moved(self, payload: bytes, count: int) -> float:
        """Return the mean squared difference of `count` samples' answers, less a constant shift.

        A shift that is the same for every sample is what biases make up for.
        """
        found = answers(payload, self.runtime, self.samples[:count])
        error = (found - self.exact[:count]) / self.spread
        return float(np.square(error - error.mean(axis=0)).mean())


def rms(squares: Floats) -> float:
    """Return the root of the mean of squared errors."""
    return float(np.sqrt(squares.mean()))
