"""What a bundle says about its own making: report, lineage, provenance, bill of materials.

Only facts that a second run finds again: no time, no host, no duration.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zstandard

from edgec_compiler.comparing.layer_errors import LayerError
from edgec_compiler.estimating import Estimate
from edgec_compiler.judging import Verdict, budget_of
from edgec_compiler.mapping.fitting import Fitted
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_compiler.measuring import Measurements
from edgec_compiler.naming import model_name
from edgec_compiler.options import CompileOptions
from edgec_compiler.report import page
from edgec_compiler.source import SourceModel
from edgec_compiler.variants import Variant
from edgec_hardware_profiles import Profile

JSON = dict[str, Any]
COMPARED_SAMPLES = 8  # on which layers are compared with the float form
_ZSTD_LEVEL = 19


@dataclass(frozen=True, slots=True)
class Inputs:
    """Digests of everything that went in; None where there was no such file."""

    source: str
    calibration: str | None
    evaluation: str | None
    preprocessing: str | None
    labels: str | None
    fine_tune: str | None = None
    distill: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return {what: sha256} of what there was."""
        named = {
            "model": self.source,
            "calibration": self.calibration,
            "evaluation": self.evaluation,
            "preprocessing": self.preprocessing,
            "labels": self.labels,
            "fine_tune": self.fine_tune,
            "distill": self.distill,
        }
        return {what: digest for what, digest in named.items() if digest is not None}


@dataclass(frozen=True, slots=True)
class Making:
    """One variant with all that is known of how it was made."""

    options: CompileOptions
    source: SourceModel
    profile: Profile
    format: str
    variant: Variant
    verdict: Verdict
    passes: Mapping[str, int]
    inputs: Inputs
    tools: Mapping[str, str]
    fitted: Fitted
    estimate: Estimate | None = None
    layers: tuple[LayerError, ...] = ()
    compression: Mapping[str, Any] | None = None  # what the compression stage did
    search: Mapping[str, Any] | None = None  # what was tried before this variant was chosen


def metrics(making: Making) -> JSON:
    """Return `Manifest.metrics`."""
    verdict = making.verdict
    labelled = verdict.source_accuracy is not None and verdict.accuracy is not None
    accuracy = {"source": verdict.source_accuracy, "compiled": verdict.accuracy}
    return {
        "accuracy": accuracy if labelled else None,
        "agreement": verdict.agreement,
        "samples": verdict.samples,
        "data": verdict.data,
        "bytes": {"source": making.source.size_bytes, "model": len(making.fitted.payload)},
        "precision": making.variant.precision,
    }


def lineage(making: Making) -> JSON:
    """Return `Manifest.lineage`: the source and every input, by digest."""
    source = making.source
    found: JSON = {
        "source": {"name": source.name, "format": source.format, "sha256": source.sha256},
        "inputs": making.inputs.to_dict(),
        "options": chosen_options(making),
        "tools": dict(making.tools),
    }
    if making.variant.delta is not None:
        found["delta"] = dict(making.variant.delta)
    return found


def chosen_options(making: Making) -> JSON:
    """Return the options that have a say in the model's bytes, as they were resolved."""
    chosen = {
        "target": making.profile.name,
        "format": making.format,
        **making.variant.recipe.to_dict(),
        "shapes": list(making.options.shapes),
        "seed": making.options.seed,
    }
    wanted = making.options.compress
    return {**chosen, "compression": wanted.to_dict()} if wanted else chosen


def compression(making: Making) -> JSON:
    """Return {"compression": ...} if the model was compressed, with the file's zstd size."""
    if making.compression is None:
        return {}
    payload = making.fitted.payload
    packed = len(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(payload))
    file = {"bytes": len(payload), "zstd_bytes": packed}
    return {"compression": {**making.compression, "file": file}}


def report(making: Making) -> bytes:
    """Return report.json."""
    counted = Counter(operator.op for operator in making.source.operators)
    errors = [one.to_json() for one in making.layers if one.is_finite]
    facts = {
        "schema": 1,
        "model": {
            "name": model_name(making.options.name, making.source.name),
            "version": making.options.version,
        },
        "target": {"name": making.profile.name, "title": making.profile.title},
        "format": making.format,
        "precision": making.variant.precision,
        "metrics": metrics(making),
        "budget": budget_of(making.verdict, making.options.max_accuracy_drop),
        "operators": {
            **making.fitted.accelerated_of(making.source).to_json(),
            "by_type": dict(sorted(counted.items())),
        },
        "mapping": making.fitted.mapping.to_json(),
        "estimates": dict(making.fitted.figures),
        "latency_estimate": latency_estimate(making),
        "layer_errors": {
            "data": making.verdict.data,
            "samples": COMPARED_SAMPLES,
            "layers": errors,
        },
        "search": None if making.search is None else dict(making.search),
        "passes": dict(making.passes),
        "transposes": _transposes(making),
        "preprocessing": list(making.variant.interface.preprocessing),
        "postprocessing": list(making.variant.interface.postprocessing),
        "notes": [*making.variant.notes, *making.fitted.notes, *making.profile.notes],
        "lineage": lineage(making),
        **compression(making),
    }
    return to_json(facts)


def _transposes(making: Making) -> int | None:
    """Return how many transposes the portable TFLite model does, None for another format."""
    if making.format != "tflite":
        return None
    graph = read_tflite(making.variant.payload, "the model")
    return sum(operator.op == "TRANSPOSE" for operator in graph.operators)


def facts(making: Making, digest: str, bundle: str, measured: Measurements) -> JSON:
    """Return the line that `edgec compile --json` prints for a target."""
    found = metrics(making)
    return {
        "target": making.profile.name,
        "bundle": bundle,
        "sha256": digest,
        "bytes": found["bytes"],
        "precision": making.variant.precision,
        "accuracy": found["accuracy"],
        "agreement": found["agreement"],
        "samples": found["samples"],
        "data": found["data"],
        **({} if making.variant.delta is None else {"delta": dict(making.variant.delta)}),
        **compression(making),
        "ops": making.fitted.accelerated_of(making.source).to_json(),
        "latency_ms": _latency(making, measured),
        "estimates": dict(making.fitted.figures),
        **({} if making.search is None else {"search": dict(making.search)}),
        "notes": [*making.variant.notes, *making.fitted.notes],
        "seconds": round(measured.seconds, 3),
    }


def _latency(making: Making, measured: Measurements) -> JSON | None:
    """Return what was measured here, else the estimate of the target's compiler, else ours.

    An estimate is one figure without a distribution: `kind` says that p50, p95 and p99, which
    readers may rely on, are then the same and bound nothing.
    """
    if measured.latency_ms is not None:
        return {**measured.latency_ms, "measured": True, "kind": "measurement"}
    estimate = latency_estimate(making)
    if estimate is None:
        return None
    figure = dict.fromkeys(("p50", "p95", "p99"), estimate["ms"])
    said = {"measured": False, "estimate": True, "by": estimate["by"]}
    return {**figure, **said, "kind": "estimate", "ms": estimate["ms"]}


def latency_estimate(making: Making) -> JSON | None:
    """Return the estimate of the target's own compiler, or by the profile's rates; None: neither.

    What it is made of (operators, transfer, memory) is always by the profile's rates.
    """
    own, found = making.fitted.figures.get("inference_ms"), making.estimate
    if found is None:
        return None if own is None else {"ms": round(own, 6), "by": "target's compiler"}
    return {
        "ms": round(found.ms if own is None else own, 6),
        "by": "profile's rates" if own is None else "target's compiler",
        "transfer_ms": round(found.transfer_ms, 6),
        "by_operator_ms": {op: round(ms, 6) for op, ms in found.by_type().items()},
        "macs": found.macs,
        "weight_bytes": found.weight_bytes,
        "activation_bytes": found.activation_bytes,
        "live_bytes": list(found.live_bytes),
    }


def beside(making: Making, measured: Measurements, components: bytes) -> dict[str, bytes]:
    """Return the files that lie beside the bundle, which nothing pins; `components`: its SBOM."""
    html = page(
        json.loads(report(making)),
        json.loads(measured.to_bytes()),
        json.loads(components)["components"],
    )
    return {"measurements.json": measured.to_bytes(), "report.html": html.encode()}


def to_json(value: JSON) -> bytes:
    """Return `value` as text for people and diffs: sorted, indented, the same every time."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
