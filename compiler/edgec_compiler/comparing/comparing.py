"""One comparison: a source model and a bundle in, one difference per layer out, worst first."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgec_bundle.archive import Bundle, open_bundle
from edgec_bundle.errors import BundleError
from edgec_compiler.comparing.layer_errors import LayerError, blamed, layer_errors
from edgec_compiler.comparing.options import CompareOptions
from edgec_compiler.errors import UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.importers import import_model
from edgec_compiler.importers.image_steps import image_steps
from edgec_compiler.importers.shapes import parse_shapes
from edgec_compiler.interface import interface_of, read_steps
from edgec_compiler.quantise.layers import as_options
from edgec_compiler.recipe import Recipe
from edgec_compiler.samples import digest_of, load_samples
from edgec_compiler.sessions import source_outputs
from edgec_compiler.source import SourceModel
from edgec_compiler.variants import evened, written_out
from edgec_hardware_profiles import ProfileError, load
from edgec_runtime.classes import parse_labels
from edgec_runtime.errors import DataError

Progress = Callable[[str], None]


def compare(options: CompareOptions, progress: Progress) -> dict[str, Any]:
    """Return the comparison as `edgec compare --json` prints it.

    Raises:
        CompilerError: the model, the bundle or the data cannot be used, or do not fit each other.
    """
    bundle = _open(options.bundle)
    fmt, payload = _portable(bundle)
    chosen = _table(bundle.manifest.lineage, "options")
    progress("import")
    source = _source(options, _shapes(chosen))
    if source.format == "tflite" and source.quantised:
        raise UsageError(
            f"{options.model}: is quantised already: compare needs the float model it was made from"
        )
    given = options.preprocessing
    steps = read_steps(Path(given)) if given else image_steps(source)
    interface = interface_of(steps, source.inputs, source_outputs(source))
    samples = load_samples(Path(options.data), "data", _labels(bundle), interface)
    forms = Forms(source, interface, samples, progress)
    recipe = Recipe(str(chosen.get("precision")), equalise=chosen.get("equalize") is True)
    forms, _ = evened(forms, fmt, recipe)  # else layers would differ by what was shared out
    forms = _in_its_operators(forms, bundle, fmt)
    progress("compare")
    errors = layer_errors(forms, samples, fmt, payload)
    names = blamed(errors)
    return {
        "bundle": options.bundle,
        "target": bundle.manifest.profile,
        "format": fmt,
        "precision": chosen.get("precision"),
        "samples": len(samples.data),
        "layers": [one.to_json() for one in _worst_first(errors)],
        "blamed": list(names),
        "options": "" if _integers_only(bundle) else as_options(names),
        "notes": _notes(options, source, bundle),
    }


def _source(options: CompareOptions, shapes: Sequence[str]) -> SourceModel:
    try:
        return import_model(options.model, parse_shapes(shapes))
    except UsageError as error:
        if not shapes:
            raise
        raise UsageError(
            f"{options.model}: does not take the shapes that {options.bundle} was compiled with: "
            f"{error}"
        ) from error


def _open(path: str) -> Bundle:
    try:
        return open_bundle(Path(path))
    except (BundleError, OSError) as error:
        raise UsageError(f"{path}: {error}") from error


def _labels(bundle: Bundle) -> tuple[str, ...]:
    """Return the bundle's labels, by which a folder's classes may be named."""
    try:
        return parse_labels(bundle.read("labels")) if bundle.manifest.has("labels") else ()
    except (BundleError, DataError, OSError) as error:
        raise UsageError(f"{bundle.path}: {error}") from error


def _table(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a table of a manifest's lineage; an empty one where another tool wrote none."""
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _shapes(chosen: Mapping[str, Any]) -> tuple[str, ...]:
    shapes = chosen.get("shapes")
    return tuple(str(one) for one in shapes) if isinstance(shapes, list) else ()


def _portable(bundle: Bundle) -> tuple[str, bytes]:
    """Return format and bytes of what this machine can run of a bundle."""
    role = "reference" if bundle.manifest.has("reference") else "model"
    suffix = Path(bundle.manifest.entry(role).path).suffix.removeprefix(".")
    fmt = suffix if role == "reference" else bundle.manifest.format
    if fmt not in ("tflite", "onnx"):
        raise UsageError(f"{bundle.path}: its model is a vendor's own, and there is no reference")
    try:
        return fmt, bundle.read(role)
    except (BundleError, OSError) as error:
        raise UsageError(f"{bundle.path}: {error}") from error


def _worst_first(errors: Sequence[LayerError]) -> list[LayerError]:
    return sorted(errors, key=lambda one: -one.difference.noise)


def _integers_only(bundle: Bundle) -> bool:
    try:
        return load(bundle.manifest.profile).full_integer
    except ProfileError:
        return False


def _in_its_operators(forms: Forms, bundle: Bundle, fmt: str) -> Forms:
    try:
        return written_out(forms, load(bundle.manifest.profile), fmt)
    except ProfileError:
        return forms


def _notes(options: CompareOptions, source: SourceModel, bundle: Bundle) -> list[str]:
    lineage = bundle.manifest.lineage
    notes = []
    if _table(lineage, "source").get("sha256") not in (None, source.sha256):
        notes.append("the bundle was made from another model file than this one")
    made_with = _table(lineage, "inputs").get("preprocessing")
    given = options.preprocessing
    if made_with != (digest_of(Path(given)) if given else None):
        notes.append("the bundle was made with other --preprocessing than this comparison")
    if _table(lineage, "options").get("compression"):
        notes.append("the bundle was compressed: errors hold what that did to the weights")
    return notes
