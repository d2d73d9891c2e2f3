"""What a bundle says about its own making: report, lineage, provenance, bill of materials.

Only facts that a second run finds again: no time, no host, no duration.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgec_bundle.digest import sha256_hex
from edgec_compiler.judging import Verdict
from edgec_compiler.mapping.fitting import Fitted
from edgec_compiler.measuring import Measurements
from edgec_compiler.options import CompileOptions
from edgec_compiler.report_page import page
from edgec_compiler.source import SourceModel
from edgec_compiler.variants import Variant
from edgec_hardware_profiles import Profile

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Digests of everything that went in; None where there was no such file."""

    source: str
    calibration: str | None
    evaluation: str | None
    preprocessing: str | None
    labels: str | None

    def to_dict(self) -> dict[str, str]:
        """Return {what: sha256} of what there was."""
        named = {
            "model": self.source,
            "calibration": self.calibration,
            "evaluation": self.evaluation,
            "preprocessing": self.preprocessing,
            "labels": self.labels,
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
    return {
        "target": making.profile.name,
        "format": making.format,
        "precision": making.variant.precision,
        "shapes": list(making.options.shapes),
        "seed": making.options.seed,
    }


def report(making: Making) -> bytes:
    """Return report.json."""
    counted = Counter(operator.op for operator in making.source.operators)
    facts = {
        "schema": 1,
        "target": {"name": making.profile.name, "title": making.profile.title},
        "format": making.format,
        "precision": making.variant.precision,
        "metrics": metrics(making),
        "operators": {
            "total": len(making.source.operators),
            "accelerated": accelerated(making),
            "by_type": dict(sorted(counted.items())),
        },
        "mapping": making.fitted.mapping.to_json(),
        "estimates": dict(making.fitted.figures),
        "passes": dict(making.passes),
        "preprocessing": list(making.variant.interface.preprocessing),
        "postprocessing": list(making.variant.interface.postprocessing),
        "notes": [*making.variant.notes, *making.fitted.notes, *making.profile.notes],
        "lineage": lineage(making),
    }
    return _json(facts)


def accelerated(making: Making) -> int:
    """Return how many of the source's operators an accelerator runs, or is predicted to run."""
    return making.fitted.accelerated_of(len(making.source.operators))


def provenance(making: Making) -> bytes:
    """Return an in-toto statement (v1) with a SLSA build predicate (v1) about the model file."""
    materials = [
        {"name": what, "digest": {"sha256": digest}}
        for what, digest in sorted(making.inputs.to_dict().items())
    ]
    tools = [
        {"uri": f"pkg:pypi/{name.lower()}@{version}"}
        for name, version in making.tools.items()
        if name != "python"
    ]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": sha256_hex(making.fitted.payload)}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:edgec:compile:v1",
                "externalParameters": chosen_options(making),
                "resolvedDependencies": materials + tools,
            },
            "runDetails": {"builder": {"id": "edgec", "version": {"edgec": _own_version(making)}}},
        },
    }
    return _json(statement)


def sbom(making: Making) -> bytes:
    """Return a CycloneDX 1.6 bill of materials: the model and the tools that made it."""
    digest = sha256_hex(making.fitted.payload)
    tools = [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower()}@{version}",
        }
        for name, version in making.tools.items()
        if name != "python"
    ]
    components: list[JSON] = [
        {
            "type": "machine-learning-model",
            "bom-ref": "source",
            "name": making.source.name,
            "hashes": [{"alg": "SHA-256", "content": making.source.sha256}],
        },
        *({**tool, "bom-ref": tool["purl"]} for tool in tools),
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": making.options.name or making.source.name,
                "version": making.options.version,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
        },
        "components": components,
        "dependencies": [{"ref": "model", "dependsOn": [one["bom-ref"] for one in components]}],
    }
    return _json(document)


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
        "ops": {"total": len(making.source.operators), "accelerated": accelerated(making)},
        "latency_ms": _latency(making, measured),
        "estimates": dict(making.fitted.figures),
        "notes": [*making.variant.notes, *making.fitted.notes],
        "seconds": round(measured.seconds, 3),
    }


def _latency(making: Making, measured: Measurements) -> JSON | None:
    """Return what was measured here, else the estimate of the target's own compiler."""
    if measured.latency_ms is not None:
        return {**measured.latency_ms, "measured": True}
    estimate = making.fitted.figures.get("inference_ms")
    if estimate is None:
        return None
    return {**dict.fromkeys(("p50", "p95", "p99"), round(estimate, 6)), "measured": False}


def beside(making: Making, measured: Measurements) -> dict[str, bytes]:
    """Return the files that lie beside the bundle, which nothing pins."""
    html = page(json.loads(report(making)), json.loads(measured.to_bytes()))
    return {"measurements.json": measured.to_bytes(), "report.html": html.encode()}


def _own_version(making: Making) -> str:
    return making.tools.get("edgec", "unknown")


def _json(value: JSON) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
