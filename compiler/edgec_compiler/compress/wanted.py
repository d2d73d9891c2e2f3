"""What the compression options ask for, and what of it makes no sense."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgec_compiler.errors import UsageError
from edgec_compiler.importers.sniff import kind_of

# Precisions whose weights are integers.
INTEGERS = ("int8", "int16x8", "int4", "dynamic", "int8-weights")
PATTERNS = ("structured", "unstructured", "2:4")
MIN_CENTROIDS, MAX_CENTROIDS = 16, 256
_PAST = ("tflite", "savedmodel")
TOO_LATE = (
    "pruning, clustering, --qat, --fine-tune and --distill change a model before it is converted, "
    "and a TFLite file is converted already (a SavedModel comes in as one): start from the ONNX, "
    "PyTorch or Keras model"
)
_HALF = 0.5  # what 2:4 removes, no more and no less


@dataclass(frozen=True, slots=True)
class Wanted:
    """Options of the compression stage."""

    prune: float | None = None  # share of the parameters, 0..1
    pattern: str = "structured"
    cluster: int | None = None  # centroids per layer
    qat: bool = False
    fine_tune: str | None = None  # FILE.py:FUNCTION
    distill: str | None = None  # STUDENT.py:factory
    recover_epochs: int | None = None  # None: chosen by the amount of data; 0: no training
    control: bool = False  # train the uncompressed model alike, to compare with

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.prune or self.cluster or self.qat or self.fine_tune or self.distill)

    @property
    def functions(self) -> tuple[str | None, str | None]:
        """The user's code that has a say: fine_tune, distill."""
        return self.fine_tune, self.distill

    @property
    def trains(self) -> bool:
        """Whether the built-in training is asked for, which needs samples."""
        return bool(self) and self.fine_tune is None and self.recover_epochs != 0

    def to_dict(self) -> dict[str, Any]:
        """Return what was asked for, without the paths of files."""
        asked = {key: value for key, value in asdict(self).items() if value not in (None, False)}
        if self.prune is None:
            del asked["pattern"]
        for key in ("fine_tune", "distill"):
            if key in asked:
                asked[key] = (
                    Path(asked[key].rpartition(":")[0]).name + ":" + function_of(asked[key])
                )
        return asked


def file_of(named: str) -> Path:
    """Return the file of FILE.py:FUNCTION."""
    return Path(named.rpartition(":")[0])


def function_of(named: str) -> str:
    """Return the function of FILE.py:FUNCTION."""
    return named.rpartition(":")[2]


def check(wanted: Wanted, *, model: str, calibrated: bool, precisions: Mapping[str, str]) -> None:
    """Return if the options make sense together.

    Args:
        wanted: the options.
        model: the MODEL argument.
        calibrated: there is calibration data.
        precisions: what each target will get.

    Raises:
        UsageError: they do not; the message says what to do.
    """
    if wanted.prune is not None and not 0 < wanted.prune < 1:
        raise UsageError(
            f"--prune: expected a share of the parameters between 0 and 1, got {wanted.prune:g}"
        )
    if wanted.pattern != "structured" and wanted.prune is None:
        raise UsageError(f"--prune-pattern {wanted.pattern}: say how much with --prune RATIO")
    if wanted.pattern == "2:4" and wanted.prune != _HALF:
        raise UsageError("--prune-pattern 2:4 removes two weights of four: --prune 0.5")
    if wanted.cluster is not None and not MIN_CENTROIDS <= wanted.cluster <= MAX_CENTROIDS:
        raise UsageError(
            f"--cluster: expected {MIN_CENTROIDS} to {MAX_CENTROIDS} values per layer, "
            f"got {wanted.cluster}"
        )
    if wanted.recover_epochs is not None and wanted.recover_epochs < 0:
        raise UsageError(f"--recover-epochs: expected 0 or more, got {wanted.recover_epochs}")
    for option, named in (("--fine-tune", wanted.fine_tune), ("--distill", wanted.distill)):
        if named is not None:
            _check_function(option, named)
    if not wanted and (wanted.control or wanted.recover_epochs is not None):
        raise UsageError(
            "--recover-epochs and --control belong to --prune, --cluster, --qat, --fine-tune or "
            "--distill: none is given"
        )
    if wanted and kind_of(model)[0] in _PAST:
        raise UsageError(TOO_LATE)
    _check_training(wanted, calibrated=calibrated, precisions=precisions)


def _check_training(wanted: Wanted, *, calibrated: bool, precisions: Mapping[str, str]) -> None:
    if wanted.qat:
        floats = [t for t, precision in precisions.items() if precision not in INTEGERS]
        if floats:
            raise UsageError(
                f"--qat trains for integers, but {floats[0]} gets {precisions[floats[0]]}: choose "
                "--precision int8 or int4, and targets that take it"
            )
        if not wanted.trains and wanted.fine_tune is None:
            raise UsageError("--qat is training: --recover-epochs 0 leaves it nothing to do")
    if wanted.trains and not calibrated:
        raise UsageError(
            "the model is to be trained after compression, for which samples are needed: add "
            "--calibration DATA (labels are used, but not needed), or --fine-tune FILE.py:FUNCTION "
            "with your own training, or --recover-epochs 0 to go without"
        )
    if wanted.distill is not None and not wanted.trains and wanted.fine_tune is None:
        raise UsageError("--distill is training: --recover-epochs 0 leaves it nothing to do")


def _check_function(option: str, named: str) -> None:
    file, function = file_of(named), function_of(named)
    if file.suffix != ".py" or not function:
        raise UsageError(f"{option}: expected FILE.py:FUNCTION, got {named!r}")
    if not file.is_file():
        raise UsageError(f"{option} {file}: no such file")
