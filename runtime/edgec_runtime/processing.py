"""Strings steps together: raw inputs to model tensors, and model tensors to final outputs.

The same two classes serve calibration, evaluation, `edgec run` and the device; nothing else turns
a raw input into a tensor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec_bundle.manifest import Step as RawStep
from edgec_bundle.manifest import TensorSpec
from edgec_runtime.errors import InputError, OutputError, SpecError, StepError
from edgec_runtime.session import Array
from edgec_runtime.steps import POSTPROCESSING, PREPROCESSING, ArrayStep, Step, parse_step
from edgec_runtime.steps._checks import require_finite
from edgec_runtime.steps._params import Misfit
from edgec_runtime.steps.decision import TopK
from edgec_runtime.steps.image import DecodeImage

RawInput = Array | Sequence[bytes]  # an array with leading N, or N encoded rows

_NO_DECODER = "expected an array, got encoded files, and no decode_image step to read them"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The way from public inputs to what the model is fed, per input."""

    inputs: tuple[TensorSpec, ...]
    chains: Mapping[str, tuple[ArrayStep, ...]]

    @classmethod
    def parse(cls, inputs: Sequence[TensorSpec], steps: Sequence[RawStep]) -> "Preprocessing":
        """Read a manifest's inputs and preprocessing.

        Raises:
            UnsupportedError: a step is not known.
            SpecError: a step is malformed, or acts on no input.
        """
        chains: dict[str, list[ArrayStep]] = {spec.name: [] for spec in inputs}
        for number, raw in enumerate(steps, 1):
            where = f"preprocessing step {number}"
            step, named = parse_step(raw, PREPROCESSING, where, "input")
            chain = chains[_owner(named, tuple(chains), where, "input")]
            if isinstance(step, DecodeImage) and chain:
                raise SpecError(f"{where}: decode_image must be the input's first step")
            chain.append(step)
        parsed = cls(tuple(inputs), {name: tuple(chain) for name, chain in chains.items()})
        for spec in inputs:
            _check_spec(spec, "input")
            if spec.dtype == "bytes" and parsed._decoder(spec.name) is None:
                raise SpecError(f"input '{spec.name}' is bytes, but its first step decodes nothing")
        return parsed

    def count(self, inputs: Mapping[str, RawInput]) -> int:
        """Return how many rows `inputs` holds, having checked names, dtypes and shapes.

        Raises:
            InputError: they do not fit the public interface; the message names the input.
        """
        expected = [spec.name for spec in self.inputs]
        if missing := [name for name in expected if name not in inputs]:
            raise InputError("missing", tensor=missing[0])
        if unknown := [name for name in inputs if name not in expected]:
            raise InputError(f"unknown; the inputs are {', '.join(expected)}", tensor=unknown[0])
        rows = 0
        for spec in self.inputs:
            found = self._rows(spec, inputs[spec.name])
            if rows and found != rows:
                raise InputError(f"expected {rows} rows as before, got {found}", tensor=spec.name)
            rows = found
        return rows

    def run(self, inputs: Mapping[str, RawInput]) -> dict[str, Array]:
        """Return for each public input the model's array [N, ...].

        Raises:
            InputError: the inputs do not fit the public interface.
            StepError: a step refuses a value; the message names input, row and step.
        """
        self.count(inputs)
        return {name: self._one(name, inputs[name]) for name in self.chains}

    def decoded(self, name: str, value: RawInput) -> list[Array]:
        """Return one input as raw arrays: encoded images decoded, one [1, H, W, C] per row."""
        if isinstance(value, np.ndarray):
            return [value]
        decoder = self._decoder(name)
        if decoder is None:
            raise InputError(_NO_DECODER, tensor=name)
        images = []
        for row, encoded in enumerate(value):
            try:
                images.append(decoder.decode(encoded))
            except Misfit as misfit:
                raise StepError(
                    misfit.problem, step=decoder.op, tensor=name, row=row
                ) from misfit.__cause__
        return images

    def _decoder(self, name: str) -> DecodeImage | None:
        first = self.chains[name][:1]
        return first[0] if first and isinstance(first[0], DecodeImage) else None

    def _rows(self, spec: TensorSpec, value: RawInput) -> int:
        if not isinstance(value, np.ndarray):
            self._check_encoded(spec, value)
        elif spec.dtype == "bytes":
            raise InputError(
                f"expected encoded files, got an array {value.dtype}", tensor=spec.name
            )
        else:
            problem = _mismatch(spec, value)
            if problem is not None:
                raise InputError(problem, tensor=spec.name)
        if len(value) == 0:
            raise InputError("expected at least one row, got none", tensor=spec.name)
        return len(value)

    def _check_encoded(self, spec: TensorSpec, value: object) -> None:
        decodes = self._decoder(spec.name) is not None
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            what = "an array or a list of encoded files" if decodes else "an array"
            raise InputError(f"expected {what}, got {type(value).__name__}", tensor=spec.name)
        if not decodes:
            raise InputError(_NO_DECODER, tensor=spec.name)

    def _one(self, name: str, value: RawInput) -> Array:
        steps = self.chains[name]
        nulls = any(getattr(step, "takes_nulls", False) for step in steps)
        parts = self.decoded(name, value)
        single = isinstance(value, np.ndarray)  # else one part per row, maybe of different sizes
        done: list[Array] = []
        for offset, part in enumerate(parts):
            done.append(_chain(name, steps, part, 0 if single else offset, nulls=nulls))
        if single:
            return done[0]
        for row, part in enumerate(done):
            if part.shape != done[0].shape or part.dtype != done[0].dtype:
                raise InputError(
                    f"expected {list(done[0].shape[1:])} after preprocessing, as row 0 has, got"
                    f" {list(part.shape[1:])}; a resize or crop step makes images alike",
                    tensor=name,
                    row=row,
                )
        return np.concatenate(done)


def _chain(
    name: str, steps: tuple[ArrayStep, ...], batch: Array, offset: int, *, nulls: bool
) -> Array:
    """Run `steps` over `batch`, whose first row is the input's row `offset`."""
    op: str | None = None  # no step yet: the raw values themselves are checked
    try:
        if not nulls:
            require_finite(batch)
        for step in steps:
            op = step.op
            batch = step.apply(batch)
        require_finite(batch)
    except Misfit as misfit:
        row = None if misfit.row is None else misfit.row + offset
        if row is None and offset:
            row = offset
        if op is None:
            raise InputError(misfit.problem, tensor=name, row=row) from misfit.__cause__
        raise StepError(misfit.problem, step=op, tensor=name, row=row) from misfit.__cause__
    return batch


@dataclass(frozen=True, slots=True)
class Postprocessing:
    """The way from model outputs to the public outputs."""

    outputs: tuple[TensorSpec, ...]
    steps: tuple[tuple[Step, str], ...]  # in the manifest's order, each with its output's name
    heads: tuple[str, ...]  # the public outputs that model outputs become; top_k makes the others

    @classmethod
    def parse(cls, outputs: Sequence[TensorSpec], steps: Sequence[RawStep]) -> "Postprocessing":
        """Read a manifest's outputs and postprocessing.

        Raises:
            UnsupportedError: a step is not known.
            SpecError: a step is malformed, or acts on no output.
        """
        names = tuple(spec.name for spec in outputs)
        parsed = []
        for number, raw in enumerate(steps, 1):
            where = f"postprocessing step {number}"
            parsed.append((where, *parse_step(raw, POSTPROCESSING, where, "output")))
        made = [step.indices for _, step, _ in parsed if isinstance(step, TopK)]
        if unknown := set(made) - set(names):
            raise SpecError(f"top_k makes '{min(unknown)}', which is no output")
        heads = tuple(name for name in names if name not in made)
        if len(set(made)) != len(made) or not heads:
            raise SpecError("expected every top_k to name an output of its own for its indices")
        for spec in outputs:
            _check_spec(spec, "output")
        owned = []
        for where, step, named in parsed:
            owned.append((step, _owner(named, heads, where, "output")))
        return cls(tuple(outputs), tuple(owned), heads)

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the public outputs, in the manifest's order, for the arrays of `heads` [N, ...].

        Raises:
            OutputError: a step refuses a value, or a result is not what the manifest promises.
        """
        results = dict(values)
        for step, name in self.steps:
            try:
                if isinstance(step, TopK):
                    results[name], results[step.indices] = step.select(results[name])
                else:
                    results[name] = step.apply(results[name])
            except Misfit as misfit:
                raise OutputError(
                    f"{step.op}: {misfit.problem}", tensor=name, row=misfit.row
                ) from misfit.__cause__
        for spec in self.outputs:
            problem = _mismatch(spec, results[spec.name])
            if problem is not None:
                raise OutputError(problem, tensor=spec.name)
        return {spec.name: np.ascontiguousarray(results[spec.name]) for spec in self.outputs}


def _owner(named: str | None, names: tuple[str, ...], where: str, kind: str) -> str:
    if named is None and len(names) == 1:
        return names[0]
    if named not in names:
        said = "does not say" if named is None else f"names '{named}', not"
        raise SpecError(f"{where} {said} which {kind} it acts on: {', '.join(names)}")
    return named


def _check_spec(spec: TensorSpec, kind: str) -> None:
    if not spec.shape or spec.shape[0] != -1:
        raise SpecError(f"{kind} '{spec.name}': expected a leading -1 for rows, got {spec.shape}")
    if spec.dtype == "bytes" and (kind == "output" or len(spec.shape) != 1):
        raise SpecError(f"{kind} '{spec.name}': only an input may be bytes, with shape [-1]")


def _mismatch(spec: TensorSpec, value: Array) -> str | None:
    if value.dtype.name != spec.dtype:
        return f"expected {spec.dtype}, got {value.dtype.name}"
    fits = value.ndim == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, value.shape, strict=True)
    )
    return None if fits else f"expected shape {list(spec.shape)}, got {list(value.shape)}"
