"""One target of a compile run: make, judge, fit, write and measure its bundle."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgec_bundle.archive import Bundle
from edgec_compiler import judging, records
from edgec_compiler.bundling import Parts, write_target
from edgec_compiler.comparing.layer_errors import LayerError, layer_errors
from edgec_compiler.errors import CompilerError, NotAchievedError
from edgec_compiler.estimating import Estimate, estimate_latency
from edgec_compiler.growth import on_growth
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.fitting import (
    Fitted,
    calibration_inputs,
    fit_to_target,
    graph_of,
)
from edgec_compiler.measuring import Measurements, measure_bundle
from edgec_compiler.naming import model_name
from edgec_compiler.planning import Plan
from edgec_compiler.records import Making
from edgec_compiler.requantise.base import open_base, read_base
from edgec_compiler.results import TargetResult, attempted
from edgec_compiler.run import Run
from edgec_compiler.search.searching import Found
from edgec_compiler.search.targets import goal_of, note_of
from edgec_compiler.side_by_side import Here
from edgec_compiler.variants import Near, Variant, make_variant, own_forms
from edgec_hardware_profiles import this_host
from edgec_runtime.errors import RunError
from edgec_runtime.pipeline import Pipeline

Alone = Callable[[], AbstractContextManager[None]]

_SLOW = (
    "XNNPACK refuses this model, so LiteRT's own kernels run it, which is slower: the usual cause "
    "is an operator whose inputs and output have scales too unlike each other"
)
_IDLE_LABELS = (
    "the labels are not used, since no output names a class: give one the meaning probabilities, "
    "logits or scores, as floats [-1, classes] (after a dequantize step, if the model's are "
    "integers)"
)


def target_piece(
    run: Run, one: Plan, found: Found | None, started: float, here: Here
) -> TargetResult:
    """Return what comes of one target, in a process of its own; it measures while it is alone.

    Other targets are made at the same time by other processes.

    Args:
        run: what all targets share.
        one: the target's plan.
        found: what a search found for it, if there was one.
        started: when the run began, in seconds of `time.monotonic`.
        here: the process that this is.
    """
    run.forms.progress = here.step
    return attempted(one.profile.name, partial(_make, run, one, found, started, here.alone))


def _make(run: Run, one: Plan, found: Found | None, started: float, alone: Alone) -> TargetResult:
    """Make, judge, write and measure one target's bundle. Raises CompilerError."""
    variant, verdict = _variant(run, one, found)
    _check_memory(one, len(variant.payload))
    pipeline = _pipeline(run, one, variant)
    try:
        if verdict is None:
            run.forms.progress(f"{one.profile.name}: judge")
            verdict = _verdict(run, one, pipeline)
        making = _making(run, one, variant, verdict, found)
        parts = Parts(making, pipeline, run.evaluation, run.labels, one.out)
        is_slow = _is_slow(pipeline)
        bundle, measured = _write(run, one, parts, started, alone)
    finally:
        pipeline.close()
    facts = records.facts(making, bundle.digest, str(one.out), measured)
    idle = _IDLE_LABELS if run.labels is not None and pipeline.head is None else None
    unjudged = note_of(one, goal_of(run.options, one, run.lab), run.lab)
    slow = _SLOW if is_slow else None
    told = [one.note, unjudged, idle, slow, *variant.notes, *making.fitted.notes]
    facts["notes"] = [note for note in told if note]
    return TargetResult(one.profile.name, facts, reads=run.source.reads)


def _variant(run: Run, one: Plan, found: Found | None) -> tuple[Variant, judging.Verdict | None]:
    """Return the target's variant, and how good it is if a search has judged it already."""
    near = _near(run, one)
    if found is not None and near is None:
        return found.variant, found.verdict
    recipe = one.recipe if found is None else found.recipe
    return make_variant(run.forms, one.profile, one.format, recipe, near), None


def _making(
    run: Run, one: Plan, variant: Variant, verdict: judging.Verdict, found: Found | None
) -> Making:
    """Return all that records tell of a judged variant. Raises CompilerError."""
    forms, _ = own_forms(run.forms, one.profile, one.format, variant.recipe)
    fitted = _fit(run, one, variant, judging.doubt(verdict, run.evaluation))
    return Making(
        run.options,
        run.source,
        one.profile,
        one.format,
        variant,
        verdict,
        forms.passes_for(one.format),
        run.inputs,
        run.tools,
        fitted,
        _estimate(one, variant, fitted),
        _layer_errors(run, one, variant),
        run.forms.compression,
        None if found is None else found.facts,
    )


def _is_slow(pipeline: Pipeline) -> bool:
    """Return whether the target's LiteRT would run the model without XNNPACK, as here."""
    litert = pipeline.manifest.runtime.name == "litert"
    return litert and "xnnpack" not in pipeline.session.delegates


def _write(
    run: Run, one: Plan, parts: Parts, started: float, alone: Alone
) -> tuple[Bundle, Measurements]:
    """Write the bundle, if it passes its self-test; return it with what was measured of it."""
    measured: list[Measurements] = []

    def measure(bundle: Bundle) -> Mapping[str, bytes]:
        here = one.profile.host.matches(this_host())
        with alone() if here else nullcontext():
            run.forms.progress(f"{one.profile.name}: measure")
            seconds = time.monotonic() - started
            measured.append(measure_bundle(bundle, one.profile, seconds))
        return records.beside(parts.making, measured[0], bundle.read("sbom"))

    return write_target(parts, measure), measured[0]


def _pipeline(run: Run, one: Plan, variant: Variant) -> Pipeline:
    return judging.target_pipeline(
        variant.payload, variant.interface, one.format, one.profile, run.lab.labels
    )


def _verdict(run: Run, one: Plan, pipeline: Pipeline) -> judging.Verdict:
    """Return how good a variant is. Raises NotAchievedError if it misses the budget."""
    compiled = judging.run_over(pipeline, run.evaluation)
    verdict = judging.compare(run.lab.expected, compiled, run.evaluation)
    judging.check_budget(verdict, run.options.max_accuracy_drop, one.profile.name)
    return verdict


def _near(run: Run, one: Plan) -> Near | None:
    """Return the deployed model that this target's shall be near to. Raises CompilerError."""
    path = run.options.delta_base
    if path is None:
        return None
    base = read_base(open_base(Path(path), one.profile.name, one.format, one.recipe.precision))

    def accept(variant: Variant) -> bool:
        pipeline = _pipeline(run, one, variant)
        try:
            _verdict(run, one, pipeline)
        except NotAchievedError:
            return False
        finally:
            pipeline.close()
        return True

    return Near(base, run.options.delta_budget, run.evaluation, accept)


def _fit(run: Run, one: Plan, variant: Variant, notes: tuple[str, ...]) -> Fitted:
    """Return the target's own form of a judged variant, which `notes` go with."""
    run.forms.progress(f"{one.profile.name}: fit")
    name = model_name(run.options.name, run.source.name)
    samples = None
    if any(tool.needs_samples for tool in one.profile.tools):
        samples = calibration_inputs(run.forms.calibration, variant.interface)
    fitted = fit_to_target(variant.payload, one.format, one.profile, name, samples)
    return replace(fitted, notes=(*notes, *fitted.notes, *on_growth(run.source, fitted)))


def _estimate(one: Plan, variant: Variant, fitted: Fitted) -> Estimate | None:
    """Return how long it will roughly take; operators run where `fitted` says, if it knows."""
    graph = graph_of(variant.payload, one.format)
    mapping = fitted.mapping
    if mapping.total != len(graph.operators):
        mapping = check(graph, one.profile)
    return estimate_latency(graph, one.profile, mapping)


def _layer_errors(run: Run, one: Plan, variant: Variant) -> tuple[LayerError, ...]:
    if run.source.quantised or variant.payload == run.source.payload:
        return ()  # it keeps its own quantisation, or is the float form itself
    run.forms.progress(f"{one.profile.name}: compare layers")
    try:
        forms, _ = own_forms(run.forms, one.profile, one.format, variant.recipe)
        data = run.evaluation.data.rows(0, records.COMPARED_SAMPLES)
        few = replace(run.evaluation, data=data)
        return tuple(layer_errors(forms, few, one.format, variant.payload))
    except (CompilerError, RunError):
        return ()  # the model was judged already; this only says where its error comes from


def _check_memory(one: Plan, size: int) -> None:
    limit = one.profile.storage_bytes or one.profile.memory_bytes
    if limit is not None and size > limit:
        raise NotAchievedError(
            f"{one.profile.name}: the model has {size} bytes, the device {limit} bytes of "
            "memory: lower the --precision or make the model smaller"
        )
