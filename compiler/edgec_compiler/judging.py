"""How good a variant is: accuracy of source and variant on the same raw data, and agreement."""

from dataclasses import dataclass

from edgec_bundle.manifest import Manifest, Runtime
from edgec_compiler.errors import ConversionError, NotAchievedError
from edgec_compiler.interface import Interface
from edgec_compiler.options import DEFAULT_MAX_DROP
from edgec_compiler.samples import Samples
from edgec_compiler.sessions import source_session
from edgec_compiler.source import SourceModel
from edgec_hardware_profiles import Profile
from edgec_runtime.errors import RunError
from edgec_runtime.evaluate import Evaluation, agreement, evaluate
from edgec_runtime.pipeline import Pipeline
from edgec_runtime.session import Session, load_session

RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert", "torch": "torch", "keras": "torch"}


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
    if RUNTIMES[fmt] != own.name:
        return Runtime(RUNTIMES[fmt], None, "cpu")
    return Runtime(own.name, own.min_version, own.delegate)


def source_pipeline(source: SourceModel, interface: Interface, labels: tuple[str, ...]) -> Pipeline:
    """Return the source model on its own runtime behind the public interface."""
    manifest = draft_manifest(interface, source.format, Runtime(RUNTIMES[source.format]))
    return Pipeline(manifest, source_session(source), labels)


def judged_session(payload: bytes, fmt: str, profile: Profile) -> Session:
    """Return a model file as its target computes it, as far as this machine can tell."""
    serving = fmt == "tflite" or profile.quantization.judged == "serving"
    return load_session(payload, RUNTIMES[fmt], optimise=serving)


def run_over(pipeline: Pipeline, samples: Samples) -> Evaluation:
    """Return what `pipeline` answers to `samples`. Raises ConversionError if it fails."""
    try:
        return evaluate(pipeline, samples.data)
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
