"""Runs the compression stage between a run's import and its conversions."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import fx

from edgec_bundle.manifest import Runtime
from edgec_compiler import judging
from edgec_compiler.compress.lessons import prepare
from edgec_compiler.compress.stage import Quality, Surroundings, compress
from edgec_compiler.compress.wanted import INTEGERS, TOO_LATE
from edgec_compiler.errors import UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.options import CompileOptions
from edgec_compiler.samples import Samples
from edgec_compiler.sessions import TorchSession
from edgec_runtime.evaluate import Evaluation
from edgec_runtime.pipeline import Pipeline


def compress_forms(
    options: CompileOptions,
    forms: Forms,
    evaluation: Samples,
    expected: Evaluation,
    labels: tuple[str, ...],
) -> None:
    """Let `forms` be those of the compressed graph, which all targets of the run share.

    What is made depends on the options alone, not on which targets there are, so that a target's
    bundle is the same with and without others.

    Args:
        options: of the run.
        forms: of the source model.
        evaluation: what the graph's quality is told by.
        expected: the source model's answers to it.
        labels: names of the classes.

    Raises:
        UsageError: the model came in behind the graph, or the student does not fit.
        CompilerError: training fails.
    """
    if forms.source.module is None:
        raise UsageError(TOO_LATE)
    given = _surroundings(options, forms, partial(_quality, forms, evaluation, expected, labels))
    made = compress(forms.graph(), given)
    compared = made.facts["compared"]
    if evaluation.origin == "calibration" and given.data is not None:
        compared += (
            "; judged by the samples that it learned from, so it may be worse on others: give "
            "--evaluation DATA"
        )
    facts = {
        **made.facts,
        "compared": compared,
        "evaluated": {
            "data": evaluation.origin,
            "samples": expected.samples,
            "source_accuracy": expected.accuracy,
        },
    }
    forms.replace_graph(made.graph, facts)


def _surroundings(options: CompileOptions, forms: Forms, quality: Quality) -> Surroundings:
    source, interface, calibration = forms.source, forms.interface, forms.calibration
    wanted, precision = options.compress, options.precision
    needed = calibration is not None and (wanted.trains or wanted.qat)
    return Surroundings(
        wanted=wanted,
        interface=interface,
        example=source.example(),
        data=prepare(calibration, source, interface) if needed and calibration else None,
        weight_bits=4 if precision == "int4" else 8,
        rounds_activations=precision in ("auto", "int8", "int4", "dynamic"),
        per_channel=precision in INTEGERS or (precision == "auto" and calibration is not None),
        seed=options.seed,
        say=forms.progress,
        quality=quality,
    )


def _quality(
    forms: Forms,
    evaluation: Samples,
    expected: Evaluation,
    labels: tuple[str, ...],
    graph: fx.GraphModule,
) -> Mapping[str, Any]:
    """Return how good `graph` is: accuracy, None without labels, and agreement with the source."""
    session = TorchSession(graph, forms.source.inputs, forms.source.outputs)
    manifest = judging.draft_manifest(forms.interface, "torch", Runtime("torch"))
    pipeline = Pipeline(manifest, session, labels)
    verdict = judging.compare(expected, judging.run_over(pipeline, evaluation), evaluation)
    return {"accuracy": verdict.accuracy, "agreement": verdict.agreement}
