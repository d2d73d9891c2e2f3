"""One compile run: a model and its samples in, one bundle per target out.

import -> passes -> (per target: convert, quantise, fit, judge, write, measure). Everything that
targets share is made once. A target that fails does not stop the others.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgec_bundle.archive import Bundle
from edgec_bundle.errors import BundleError
from edgec_compiler import judging, records
from edgec_compiler.bundling import Parts, write_target
from edgec_compiler.errors import CompilerError, ConversionError, NotAchievedError, UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.importers import import_model
from edgec_compiler.importers.image_steps import image_steps
from edgec_compiler.importers.shapes import parse_shapes
from edgec_compiler.interface import Interface, interface_of, read_steps
from edgec_compiler.locking import check_lock, write_lock
from edgec_compiler.mapping.fitting import Fitted, calibration_inputs, fit_to_target
from edgec_compiler.measuring import Measurements, measure_bundle
from edgec_compiler.naming import model_name
from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import Plan, plan
from edgec_compiler.records import Inputs, Making
from edgec_compiler.requantise.base import open_base, read_base
from edgec_compiler.samples import Samples, digest_of, load_samples, noise
from edgec_compiler.sessions import source_session
from edgec_compiler.source import SourceModel
from edgec_compiler.tools import tool_versions
from edgec_compiler.variants import Near, Variant, make_variant
from edgec_runtime.classes import parse_labels
from edgec_runtime.errors import RunError
from edgec_runtime.evaluate import Evaluation
from edgec_runtime.pipeline import Pipeline

Progress = Callable[[str], None]

_IDLE_LABELS = (
    "the labels are not used, since no output names a class: give one the meaning probabilities, "
    "logits or scores, as floats [-1, classes] (after a dequantize step, if the model's are "
    "integers)"
)


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One target's bundle as `--json` prints it, or why there is none."""

    target: str
    facts: Mapping[str, Any] | None
    error: str | None = None
    exit_code: int = 0
    note: str | None = None


def compile_model(options: CompileOptions, progress: Progress) -> Iterator[TargetResult]:
    """Compile for every target in turn; yield each result when its bundle is in place.

    Raises:
        CompilerError: nothing can be compiled at all. A single target's failure is in its result.
    """
    started = time.monotonic()
    plans = plan(options)
    progress("import")
    source = import_model(options.model, parse_shapes(options.shapes))
    run = _Run.start(options, source, progress)
    for one in plans:
        try:
            yield run.make(one, started)
        except CompilerError as error:
            yield _failure(one.profile.name, error, error.exit_code)
        except (BundleError, RunError) as error:
            yield _failure(one.profile.name, error, CompilerError.exit_code)


def _failure(target: str, error: Exception, exit_code: int) -> TargetResult:
    said = str(error)
    named = said if target in said else f"{target}: {said}"
    return TargetResult(target, None, named, exit_code)


@dataclass(frozen=True, slots=True)
class _Run:
    """What the targets of one run share."""

    options: CompileOptions
    source: SourceModel
    interface: Interface
    labels: bytes | None
    inputs: Inputs
    tools: Mapping[str, str]
    evaluation: Samples
    expected: Evaluation  # the source model's answers to `evaluation`
    forms: Forms

    @classmethod
    def start(cls, options: CompileOptions, source: SourceModel, progress: Progress) -> "_Run":
        """Read samples and labels, and let the source model answer. Raises CompilerError."""
        given = options.preprocessing
        steps = read_steps(Path(given)) if given else image_steps(source)
        interface = interface_of(steps, source.inputs, _source_outputs(source))
        labels = _read_labels(options.labels)
        names = _label_names(labels)

        def samples(origin: str) -> Samples | None:
            path = getattr(options, origin)
            return load_samples(Path(path), origin, names, interface) if path else None

        calibration = samples("calibration")
        evaluation = samples("evaluation") or calibration or noise(interface, options.seed)
        tools = tool_versions()
        inputs = Inputs(
            source.sha256,
            calibration.sha256 if calibration else None,
            evaluation.sha256 if evaluation.origin == "evaluation" else None,
            digest_of(Path(options.preprocessing)) if options.preprocessing else None,
            digest_of(Path(options.labels)) if options.labels else None,
        )
        if options.locked:
            check_lock(Path(options.locked), inputs, tools)
        progress("evaluate the source model")
        pipeline = judging.source_pipeline(source, interface, names)
        expected = judging.run_over(pipeline, evaluation)
        pipeline.close()
        if options.lock:
            write_lock(Path(options.lock), inputs, tools)
        forms = Forms(source, interface, calibration, progress)
        return cls(options, source, interface, labels, inputs, tools, evaluation, expected, forms)

    def make(self, one: Plan, started: float) -> TargetResult:
        """Make, judge, write and measure one target's bundle. Raises CompilerError."""
        near = self._near(one)
        variant = make_variant(self.forms, one.profile, one.format, one.precision, near)
        self._check_memory(one, len(variant.payload))
        self.forms.progress(f"{one.profile.name}: judge")
        pipeline = self._pipeline(one, variant)
        try:
            verdict = self._verdict(one, pipeline)
            fitted = self._fit(one, variant)
            making = Making(
                self.options,
                self.source,
                one.profile,
                one.format,
                variant,
                verdict,
                self.forms.passes,
                self.inputs,
                self.tools,
                fitted,
            )
            parts = Parts(making, pipeline, self.evaluation, self.labels, one.out)
            self.forms.progress(f"{one.profile.name}: measure")
            measured: list[Measurements] = []

            def measure(bundle: Bundle) -> Mapping[str, bytes]:
                seconds = time.monotonic() - started
                measured.append(measure_bundle(bundle, one.profile, seconds))
                return records.beside(making, measured[0])

            bundle = write_target(parts, measure)
        finally:
            pipeline.close()
        facts = records.facts(making, bundle.digest, str(one.out), measured[0])
        idle = _IDLE_LABELS if self.labels is not None and pipeline.head is None else None
        notes = [note for note in (one.note, idle, *_said(variant), *fitted.notes) if note]
        return TargetResult(one.profile.name, facts, note="; ".join(notes) or None)

    def _pipeline(self, one: Plan, variant: Variant) -> Pipeline:
        session = judging.judged_session(variant.payload, one.format, one.profile)
        runtime = judging.runtime_of(one.profile, one.format)
        manifest = judging.draft_manifest(variant.interface, one.format, runtime)
        return Pipeline(manifest, session, _label_names(self.labels))

    def _verdict(self, one: Plan, pipeline: Pipeline) -> judging.Verdict:
        """Return how good a variant is. Raises NotAchievedError if it misses the budget."""
        compiled = judging.run_over(pipeline, self.evaluation)
        verdict = judging.compare(self.expected, compiled, self.evaluation)
        judging.check_budget(verdict, self.options.max_accuracy_drop, one.profile.name)
        return verdict

    def _near(self, one: Plan) -> Near | None:
        """Return the deployed model that this target's shall be near to. Raises CompilerError."""
        path = self.options.delta_base
        if path is None:
            return None
        base = read_base(open_base(Path(path), one.profile.name, one.format, one.precision))

        def accept(variant: Variant) -> bool:
            pipeline = self._pipeline(one, variant)
            try:
                self._verdict(one, pipeline)
            except NotAchievedError:
                return False
            finally:
                pipeline.close()
            return True

        return Near(base, self.options.delta_budget, self.evaluation, accept)

    def _fit(self, one: Plan, variant: Variant) -> Fitted:
        """Return the target's own form of a judged variant. Raises CompilerError."""
        self.forms.progress(f"{one.profile.name}: fit")
        name = model_name(self.options.name, self.source.name)
        samples = None
        if any(tool.needs_samples for tool in one.profile.tools):
            samples = calibration_inputs(self.forms.calibration, variant.interface)
        return fit_to_target(variant.payload, one.format, one.profile, name, samples)

    def _check_memory(self, one: Plan, size: int) -> None:
        limit = one.profile.storage_bytes or one.profile.memory_bytes
        if limit is not None and size > limit:
            raise NotAchievedError(
                f"{one.profile.name}: the model has {size} bytes, the device {limit} bytes of "
                "memory: lower the --precision or make the model smaller"
            )


def _said(variant: Variant) -> tuple[str, ...]:
    """Return what people shall hear about an update near a deployed model."""
    return variant.notes if variant.delta is not None else ()


def _read_labels(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"--labels {path}: {error.strerror or error}") from error


def _label_names(labels: bytes | None) -> tuple[str, ...]:
    if labels is None:
        return ()
    try:
        return parse_labels(labels)
    except RunError as error:
        raise UsageError(f"--labels: {error}") from error


def _source_outputs(source: SourceModel) -> dict[str, Any]:
    """Return what the source model makes of its example input."""
    try:
        session = source_session(source)
        example = source.example()
        feeds = {t.name: np.asarray(x) for t, x in zip(source.inputs, example, strict=True)}
        made = session.run(feeds)
        session.close()
    except RunError as error:
        raise ConversionError(f"the source model does not run: {error}") from error
    return {tensor.name: made[tensor.name] for tensor in source.outputs}


__all__ = ["CompileOptions", "Plan", "TargetResult", "compile_model", "plan"]
