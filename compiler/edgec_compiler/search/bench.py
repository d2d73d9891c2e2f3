"""Judges candidates on the data of one run, each once in all runs that share a cache."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from edgec_compiler import judging
from edgec_compiler.cache import Entry, Store
from edgec_compiler.cache.keys import key_of
from edgec_compiler.convert.to_onnx import serialise
from edgec_compiler.convert.write_out import lacking
from edgec_compiler.errors import CompilerError, ConversionError, UsageError
from edgec_compiler.estimating import estimate_latency
from edgec_compiler.forms import Forms
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.fitting import calibration_inputs, fit_to_target, graph_of
from edgec_compiler.precisions import dequantises_weights
from edgec_compiler.quantise.activations import onnx_activations, tflite_activations
from edgec_compiler.quantise.layers import Layer
from edgec_compiler.recipe import Recipe
from edgec_compiler.requantise.outputs import Feeds, answers
from edgec_compiler.samples import Samples
from edgec_compiler.search.suspicion import suspicion
from edgec_compiler.variants import Variant, layers_of, make_variant, written_out
from edgec_hardware_profiles import Profile
from edgec_runtime.evaluate import Evaluation

PROBES = 16  # samples on which the error of raw outputs is measured


@dataclass(frozen=True, slots=True)
class Trial:
    """How good one candidate is; `refused` says why there is none."""

    bytes: int
    accuracy: float | None
    agreement: float
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Lab:
    """What all candidates of a run are made from and judged on."""

    forms: Forms
    evaluation: Samples
    expected: Evaluation  # the source model's answers
    labels: tuple[str, ...]
    store: Store | None
    # Digests of the calibration and evaluation data as they were before they were read; None if
    # they cannot be known: then nothing is kept for later runs.
    data: Mapping[str, str | None] | None

    def style_of(self, profile: Profile, fmt: str) -> str:
        """Return the style of `profile` for this run's model; see `style_of`."""
        forms = self.forms
        own = written_out(forms, profile, fmt) if forms.is_made(fmt) else forms
        return style_of(profile, fmt, () if own is forms else lacking(profile))


def style_of(profile: Profile, fmt: str, lacks: tuple[str, ...]) -> str:
    """Return all that `profile` has a say in when a variant is made and judged.

    Targets of one format and style share their candidates. `lacks` are the operators of the model
    that are written out for the target.
    """
    own: list[object] = [lacks]
    if fmt == "onnx":
        own = [profile.quantization, profile.max_opset, dequantises_weights(profile)]
    return repr([profile.full_integer, *own])


@dataclass(slots=True)
class Bench:
    """The candidates of one target; targets of one format and style may take turns at it."""

    lab: Lab
    profile: Profile
    format: str
    trials: dict[str, Trial] = field(default_factory=dict)  # by key
    latest: dict[Recipe, Variant] = field(default_factory=dict)  # what was made last
    _form: str | None = None

    def at(self, profile: Profile) -> "Bench":
        """Return this bench for another target of the same format and style."""
        return replace(self, profile=profile)

    def judge(self, recipe: Recipe) -> Trial:
        """Return how good the variant of `recipe` is. Raises UsageError for an unknown layer."""
        key = self._key("candidate", recipe=asdict(recipe))
        trial = self.trials.get(key) or self._recalled(key)
        if trial is None:
            trial = self._made(recipe)
            self._keep(key, asdict(trial))
        self.trials[key] = trial
        return trial

    def is_known(self, recipe: Recipe) -> bool:
        """Return whether `judge` need not make the variant."""
        key = self._key("candidate", recipe=asdict(recipe))
        return key in self.trials or self._recalled(key) is not None

    def variant(self, recipe: Recipe) -> Variant:
        """Return the variant of `recipe`, anew unless it was the last. Raises CompilerError."""
        if recipe not in self.latest:
            made = make_variant(self.lab.forms, self.profile, self.format, recipe)
            self.latest.clear()
            self.latest[recipe] = made
        return self.latest[recipe]

    def estimate_ms(self, recipe: Recipe) -> float | None:
        """Return how long the variant roughly takes on the target, None without rates for it."""
        key = self._key("latency", recipe=asdict(recipe), profile=repr(self.profile))
        entry = None if self._store is None else self._store.get(key)
        if entry is not None and type(entry.facts.get("ms")) in (float, type(None)):
            kept: float | None = entry.facts["ms"]
            return kept
        graph = graph_of(self.variant(recipe).payload, self.format)
        estimate = estimate_latency(graph, self.profile, check(graph, self.profile))
        found = None if estimate is None else round(estimate.ms, 6)
        self._keep(key, {"ms": found})
        return found

    def float_bytes(self) -> float:
        """Return the size of the float form."""
        return float(len(self._float_form()))

    def shipped(self, recipe: Recipe, trial: Trial) -> Trial:
        """Return `trial` with the bytes that devices get: a target's own compiler changes them."""
        if not self.profile.tools:
            return trial
        key = self._key("shipped", recipe=asdict(recipe), profile=repr(self.profile))
        found = self._recalled(key)
        if found is None:
            found = self._fitted(recipe, trial)
            if all(tool.program is None for tool in self.profile.tools):  # else nobody vouches
                self._keep(key, asdict(found))
        return found

    def _fitted(self, recipe: Recipe, trial: Trial) -> Trial:
        try:
            variant = self.variant(recipe)
            samples = None
            if any(tool.needs_samples for tool in self.profile.tools):
                samples = calibration_inputs(self.lab.forms.calibration, variant.interface)
            made = fit_to_target(variant.payload, self.format, self.profile, "model", samples)
        except CompilerError as error:
            return Trial(0, None, 0.0, str(error))
        return replace(trial, bytes=len(made.payload))

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers that may stay in float, in execution order."""
        return layers_of(self.lab.forms, self.profile, self.format)

    def suspicions(self) -> dict[str, float]:
        """Return how much of each tensor's information int8 is expected to take, by name."""
        feeds = self._probes()
        if self.format == "onnx":
            model = self.lab.forms.onnx(self.profile.max_opset)
            return suspicion(
                chain.from_iterable(onnx_activations(model, feeds)), channels_last=False
            )
        payload = self._float_form()
        return suspicion(
            chain.from_iterable(tflite_activations(payload, feeds)), channels_last=True
        )

    def output_error(self, recipe: Recipe) -> float:
        """Return the error of the variant's raw outputs on a few samples.

        It is the mean square of the difference to the float form over the variance of the float
        form's outputs: -10 log10 of it is the SQNR in dB. Raises CompilerError.
        """
        key = self._key("error", recipe=asdict(recipe))
        entry = None if self._store is None else self._store.get(key)
        if entry is not None and type(entry.facts.get("error")) is float:
            return float(entry.facts["error"])
        payload = self.variant(recipe).payload
        feeds = self._probes()
        exact = answers(self._float_form(), self._runtime, feeds)
        off = answers(payload, self._runtime, feeds) - exact
        power = float(np.mean((exact - exact.mean(axis=0)) ** 2)) or float(np.mean(exact**2))
        error = float(np.mean(off**2)) / max(power, 1e-30)
        if not np.isfinite(error):
            raise ConversionError("the variant's outputs are not finite")
        self._keep(key, {"error": error})
        return error

    @property
    def _runtime(self) -> str:
        return judging.RUNTIMES[self.format]

    @property
    def _store(self) -> Store | None:
        return self.lab.store if self.lab.data is not None else None

    def _probes(self) -> Sequence[Feeds]:
        forms = self.lab.forms
        samples = forms.calibration_samples()
        feeds = forms.onnx_feeds(samples) if self.format == "onnx" else forms.tflite_feeds(samples)
        return list(islice(feeds, PROBES))

    def _float_form(self) -> bytes:
        forms = self.lab.forms
        if self.format == "onnx":
            return serialise(forms.onnx(self.profile.max_opset))
        return written_out(forms, self.profile, self.format).tflite().payload

    def _made(self, recipe: Recipe) -> Trial:
        try:
            variant = self.variant(recipe)
            pipeline = judging.target_pipeline(
                variant.payload, variant.interface, self.format, self.profile, self.lab.labels
            )
            try:
                found = judging.run_over(pipeline, self.lab.evaluation)
            finally:
                pipeline.close()
        except CompilerError as error:
            if isinstance(error, UsageError) and not recipe.equalise:
                raise  # what the user names is not there
            return Trial(0, None, 0.0, str(error))
        verdict = judging.compare(self.lab.expected, found, self.lab.evaluation)
        return Trial(len(variant.payload), verdict.accuracy, verdict.agreement)

    def _recalled(self, key: str) -> Trial | None:
        entry = None if self._store is None else self._store.get(key)
        return None if entry is None else _trial(entry.facts)

    def _keep(self, key: str, facts: Mapping[str, Any]) -> None:
        if self._store is not None:
            self._store.put(key, Entry(dict(facts), {}))

    def _key(self, kind: str, **parts: Any) -> str:
        """Return the key of what is found with all that this bench is given."""
        lab = self.lab
        if self._form is None:
            self._form = hashlib.sha256(self._float_form()).hexdigest()
        return key_of(
            kind,
            **parts,
            form=self._form,
            source=[lab.forms.source.format, lab.forms.source.sha256, lab.forms.source.quantised],
            interface=repr(lab.forms.interface),
            style=self.lab.style_of(self.profile, self.format),
            format=self.format,
            data=None if lab.data is None else dict(lab.data),
            labels=list(lab.labels),
            expected=_digest(lab.expected),
        )


def _digest(answers_: Evaluation) -> str:
    """Return the digest of a model's answers."""
    digest = hashlib.sha256(json.dumps([answers_.samples, answers_.accuracy]).encode())
    if answers_.predictions is not None:
        digest.update(np.ascontiguousarray(answers_.predictions).tobytes())
    for name, values in sorted((answers_.outputs or {}).items()):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _trial(facts: Mapping[str, Any]) -> Trial | None:
    """Return a trial from a cache's facts, None if they are of another form."""
    match facts:
        case {
            "bytes": int(size),
            "accuracy": (float() | None) as accuracy,
            "agreement": float(agreement),
            "refused": (str() | None) as refused,
        } if len(facts) == 4:
            return Trial(size, accuracy, agreement, refused)
    return None
