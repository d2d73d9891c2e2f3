"""Writes one target's bundle: manifest, golden samples, records. Whole or not at all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgec_bundle.archive import Bundle, write_bundle
from edgec_bundle.errors import BundleError
from edgec_bundle.manifest import Manifest, Requires
from edgec_compiler import bill, judging, records
from edgec_compiler.errors import UsageError
from edgec_compiler.naming import model_name
from edgec_compiler.options import GOLDEN_SAMPLES
from edgec_compiler.precisions import TOLERANCES
from edgec_compiler.records import Making
from edgec_compiler.samples import Samples
from edgec_runtime.drift import baseline
from edgec_runtime.golden import record_golden
from edgec_runtime.pipeline import Pipeline, features_of

_RANGE_ROWS = 64  # rows from which the outputs' range is taken


@dataclass(frozen=True, slots=True)
class Parts:
    """What a bundle is written from. `pipeline` runs the variant as its target will."""

    making: Making
    pipeline: Pipeline
    samples: Samples
    labels: bytes | None
    out: Path


def write_target(parts: Parts, measure: Callable[[Bundle], Mapping[str, bytes]]) -> Bundle:
    """Write the bundle to `parts.out` and return it.

    Args:
        parts: what it is made of.
        measure: tries the finished bundle in a temporary place and returns the unpinned files to
            put beside it; what it raises leaves nothing at `parts.out`.

    Raises:
        UsageError: the folder holds something else, or the name is not one.
    """
    making, fitted = parts.making, parts.making.fitted
    manifest = _manifest(parts)
    golden, described = record_golden(
        parts.pipeline, parts.samples.data.inputs, GOLDEN_SAMPLES, _tolerance(parts)
    )
    manifest = replace(manifest, golden=described)
    contents = {
        "model": (fitted.path, fitted.payload),
        **fitted.extras,
        "golden": ("golden.npz", golden),
        "report": ("report.json", records.report(making)),
        "sbom": ("sbom.cdx.json", bill.sbom(making)),
        "provenance": ("provenance.intoto.json", bill.provenance(making)),
    }
    if parts.labels is not None:
        contents["labels"] = ("labels.txt", parts.labels)
    with TemporaryDirectory() as trial:
        beside = measure(write_bundle(Path(trial) / "bundle", manifest, contents))
    try:
        return write_bundle(parts.out, manifest, contents, beside)
    except BundleError as error:
        raise UsageError(f"--out: {error}") from error


def _manifest(parts: Parts) -> Manifest:
    making = parts.making
    options, profile = making.options, making.profile
    try:
        draft = judging.draft_manifest(
            making.variant.interface,
            making.format,
            judging.runtime_of(profile, making.format),
            model_name(options.name, making.source.name),
            options.version,
        )
        draft = replace(
            draft,
            format=making.fitted.format,
            runtime=making.fitted.runtime(profile, draft.runtime),
            release=options.release,
            profile=profile.name,
            metrics=records.metrics(making),
            lineage=records.lineage(making),
            baseline=baseline(parts.pipeline, parts.samples.data),
        )
    except BundleError as error:
        raise UsageError(f"--name, --version, --release: {error}") from error
    return replace(
        draft,
        requires=Requires(
            arch=None if profile.arch == "any" else profile.arch,
            accelerator=profile.accelerator,
            features=features_of(draft),
        ),
    )


def _tolerance(parts: Parts) -> float:
    """Return how far golden outputs may be off elsewhere: a share of the outputs' range."""
    made = parts.pipeline.infer(parts.samples.data.rows(0, _RANGE_ROWS).inputs)
    floats = [value for value in made.values() if value.dtype.kind == "f" and value.size]
    span = max((float(np.ptp(value)) for value in floats), default=1.0)
    share = TOLERANCES[parts.making.variant.precision]
    return float(f"{share * max(span, 1e-3):.3g}")
