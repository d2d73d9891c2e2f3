"""How good a variant is: accuracy of source and variant on the same raw data, and agreement."""

from dataclasses import dataclass

import numpy as np

from edgec_bundle.manifest import Manifest, Runtime
from edgec_compiler.errors import ConversionError, NotAchievedError, UsageError
from edgec_compiler.interface import Interface
from edgec_compiler.options import DEFAULT_MAX_DROP
from edgec_compiler.samples import Samples
from edgec_compiler.sessions import source_session
from edgec_compiler.source import SourceModel
from edgec_hardware_profiles import Profile
from edgec_hardware_profiles.profile import RUNTIMES as FORMATS_OF
from edgec_runtime.errors import DataError, InputError, RunError
from edgec_runtime.evaluate import Evaluation, agreement, evaluate
from edgec_runtime.pipeline import Pipeline
from edgec_runtime.session import Session, load_session

RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert", "torch": "torch", "keras": "torch"}
_BY_LUCK = 0.02  # above the share of the most frequent label


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accuracies are fractions 0..1, None without labels; agreement is with the source model."""

    source_accuracy: float | None
    accuracy: float | None
    agreement: float
    samples: int
    data: str  # "evaluation" | "calibration" | "noise"


def draft_manifest(
    interface: Interface, fmt: str, runtime: Runtime, name: str = "draft", version: str = "0.0.0"
) -> Manifest:
    """Return a manifest without files: what a pipeline needs to run a model in memory."""
    return Manifest(
        model=name,
        version=version,
        release=1,
        profile="draft",
        format=fmt,
        runtime=runtime,
        inputs=interface.inputs,
        outputs=interface.outputs,
        preprocessing=interface.preprocessing,
        postprocessing=interface.postprocessing,
    )


def runtime_of(profile: Profile, fmt: str) -> Runtime:
    """Return what runs a `fmt` model on `profile`."""
    own = profile.runtime
    if FORMATS_OF.get(own.name) != fmt:  # another format's, or a vendor's for its own binary
        return Runtime(RUNTIMES[fmt], None, "cpu")
    return Runtime(own.name, own.min_version, own.delegate)


def source_pipeline(source: SourceModel, interface: Interface, labels: tuple[str, ...]) -> Pipeline:
    """Return the source model on its own runtime behind the public interface.

    Raises:
        ConversionError: it does not take rows of a batch, as devices serve them.
    """
    manifest = draft_manifest(interface, source.format, Runtime(RUNTIMES[source.format]))
    session = source_session(source)
    try:
        return Pipeline(manifest, session, labels)
    except RunError as error:
        session.close()
        raise ConversionError(
            f"{error}: devices give a model rows, so the first axis of every input has to be the "
            "batch, of one size; export the model so (--shape fixes what is free)"
        ) from error


def judged_session(payload: bytes, fmt: str, profile: Profile) -> Session:
    """Return a model file as its target computes it, as far as this machine can tell."""
    serving = fmt == "tflite" or profile.quantization.judged == "serving"
    return load_session(payload, RUNTIMES[fmt], optimise=serving)


def target_pipeline(
    payload: bytes, interface: Interface, fmt: str, profile: Profile, labels: tuple[str, ...]
) -> Pipeline:
    """Return a model file as `profile` computes it, behind the public interface."""
    session = judged_session(payload, fmt, profile)
    return Pipeline(draft_manifest(interface, fmt, runtime_of(profile, fmt)), session, labels)


def run_over(pipeline: Pipeline, samples: Samples) -> Evaluation:
    """Return what `pipeline` answers to `samples`.

    Raises:
        UsageError: a sample is not what the public inputs take.
        ConversionError: the model fails.
    """
    try:
        return evaluate(pipeline, samples.data)
    except (InputError, DataError) as error:
        raise UsageError(f"{samples.option}: {error}") from error
    except RunError as error:
        raise ConversionError(
            f"the model cannot be run on the {samples.origin} data: {error}"
        ) from error


def compare(source: Evaluation, compiled: Evaluation, samples: Samples) -> Verdict:
    """Return how the compiled model did beside its source on the same samples."""
    return Verdict(
        source.accuracy,
        compiled.accuracy,
        agreement(source, compiled),
        source.samples,
        samples.origin,
    )


def doubt(verdict: Verdict, samples: Samples) -> tuple[str, ...]:
    """Return a note if the accuracies tell nothing: the source model does not know the labels.

    Wrong labels, an order of classes that is not the model's, or steps that are not those of
    training all look like that, and then any compiled model keeps any budget.
    """
    labels, accuracy = samples.data.labels, verdict.source_accuracy
    if labels is None or accuracy is None:
        return ()
    most = float(np.unique(labels, return_counts=True)[1].max() / labels.size)
    by_luck = 0 if most == 1 else most + _BY_LUCK  # of one class alone only nothing is telling
    if accuracy > by_luck:
        return ()
    return (
        f"the source model itself is right on {accuracy:.4f} of the samples; the most frequent "
        f"label alone would be on {most:.4f}. Check the {samples.origin} data's labels, the order "
        "of the classes, and --preprocessing: until then the accuracies prove nothing",
    )


def budget_of(verdict: Verdict, max_drop: float | None) -> dict[str, object] | None:
    """Return the budget that applies: {"limit": fraction, "of": "accuracy" | "agreement"}.

    With labels it is a drop of accuracy, 0.01 unless another is asked for; without, it applies to
    disagreement with the source model, and only if it is asked for. Noise proves neither: None.
    """
    if verdict.source_accuracy is not None and verdict.accuracy is not None:
        return {"limit": DEFAULT_MAX_DROP if max_drop is None else max_drop, "of": "accuracy"}
    if max_drop is None or verdict.data == "noise":
        return None
    return {"limit": max_drop, "of": "agreement"}


def check_budget(verdict: Verdict, max_drop: float | None, target: str) -> None:
    """Return if the variant keeps the budget.

    With labels the budget is a drop of accuracy, 0.01 unless another is asked for; without, it
    applies to disagreement with the source model, and only if it is asked for. Noise proves
    neither.

    Raises:
        NotAchievedError: it does not.
    """
    if verdict.source_accuracy is not None and verdict.accuracy is not None:
        limit = DEFAULT_MAX_DROP if max_drop is None else max_drop
        drop = verdict.source_accuracy - verdict.accuracy
        if drop > limit + 1e-12:
            raise NotAchievedError(
                f"{target}: accuracy falls from {verdict.source_accuracy:.4f} to "
                f"{verdict.accuracy:.4f}, by {drop:.4f}; allowed is {limit:g}. Try a higher "
                "--precision, more or better --calibration data, or a larger --max-accuracy-drop"
            )
        return
    if max_drop is None or verdict.data == "noise":
        return
    if 1 - verdict.agreement > max_drop + 1e-12:
        raise NotAchievedError(
            f"{target}: agrees with the source model on {verdict.agreement:.4f} of "
            f"{verdict.samples} samples; allowed is a difference of {max_drop:g}. Try a higher "
            "--precision, or more or better --calibration data"
        )
