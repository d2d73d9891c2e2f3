"""The deployed model that an update is made near to: found, opened, and judged useful or not."""

from dataclasses import dataclass
from pathlib import Path

from edgec_bundle.archive import Bundle, is_bundle, open_bundle
from edgec_bundle.errors import BundleError
from edgec_compiler.errors import NotAchievedError, UsageError

NEEDED = "int8"  # precision of both models


@dataclass(frozen=True, slots=True)
class Base:
    """A deployed bundle's model file."""

    bundle: str  # digest of its manifest
    format: str  # "tflite" | "onnx"
    payload: bytes


def open_base(path: Path, target: str, fmt: str, precision: str) -> Bundle:
    """Return the deployed bundle for `target`, checked as far as its manifest goes.

    Args:
        path: a bundle, or a folder with one bundle per target, as a compile for several targets
            leaves it.
        target: the profile's name.
        fmt: of the new model, "tflite" or "onnx".
        precision: of the new model.

    Raises:
        UsageError: there is no readable bundle.
        NotAchievedError: it is of no use for this target.
    """
    own = path / target
    try:
        bundle = open_bundle(path if is_bundle(path) or not own.exists() else own)
    except (BundleError, OSError) as error:
        raise UsageError(f"--delta-base {path}: {error}") from error
    old = bundle.manifest
    if precision != NEEDED:
        raise NotAchievedError(
            f"{target}: --delta-base is for int8 models, and this one becomes {precision}: add "
            "--precision int8, or compile this target without --delta-base"
        )
    if old.has("reference"):
        raise NotAchievedError(
            f"{target}: --delta-base {path}: its model is a vendor compiler's output, whose "
            "weights are packed: nothing of it can be kept. Compile without --delta-base"
        )
    found = old.metrics.get("precision", "of unknown precision")
    if (old.format, found) != (fmt, NEEDED):
        raise NotAchievedError(
            f"{target}: --delta-base {path}: expected a {fmt} int8 model like the new one, got "
            f"{old.format} {found}: take the bundle that devices of this target run"
        )
    return bundle


def read_base(bundle: Bundle) -> Base:
    """Return the model of a bundle from `open_base`. Raises UsageError if it was damaged."""
    try:
        return Base(bundle.digest, bundle.manifest.format, bundle.read("model"))
    except (BundleError, OSError) as error:
        raise UsageError(f"--delta-base {bundle.path}: {error}") from error
