"""Where a model comes from, for auditors: CycloneDX bill of materials, in-toto provenance.

Only facts that a second run finds again: no time, no host, no random serial number.
"""

import uuid
from typing import Any

from edgec_bundle.digest import sha256_hex
from edgec_compiler.naming import model_name
from edgec_compiler.records import Making, chosen_options, to_json
from edgec_compiler.tools import licences_of

JSON = dict[str, Any]


def provenance(making: Making) -> bytes:
    """Return an in-toto statement (v1) with a SLSA build predicate (v1) about the model file."""
    materials = [
        {"name": what, "digest": {"sha256": digest}}
        for what, digest in sorted(making.inputs.to_dict().items())
    ]
    tools = [
        {"uri": _purl(name, version)} for name, version in making.tools.items() if name != "python"
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
            "runDetails": {
                "builder": {
                    "id": "https://pypi.org/project/edgec",
                    "version": {"edgec": making.tools.get("edgec", "unknown")},
                }
            },
        },
    }
    return to_json(statement)


def sbom(making: Making) -> bytes:
    """Return a CycloneDX 1.6 bill of materials: the model, what it was made of and with.

    The serial number is made from the model's digest, so that equal models have equal bills.
    """
    digest = sha256_hex(making.fitted.payload)
    tools = _tools(making)
    inputs = [_input(what, sha) for what, sha in sorted(making.inputs.to_dict().items())]
    source = {
        "type": "machine-learning-model",
        "bom-ref": "source",
        "name": making.source.name,
        "hashes": _hashes(making.source.sha256),
    }
    components = [source, *(one for one in inputs if one["bom-ref"] != "input:model"), *tools]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'edgec:{digest}')}",
        "version": 1,
        "metadata": {"component": _model(making, digest)},
        "components": components,
        "dependencies": [
            {"ref": "model", "dependsOn": [one["bom-ref"] for one in components]},
            *({"ref": one["bom-ref"]} for one in components),
        ],
    }
    return to_json(document)


def _model(making: Making, digest: str) -> JSON:
    verdict = making.verdict
    found = {"accuracy": verdict.accuracy, "agreement with the source": verdict.agreement}
    data = f"{verdict.samples} {verdict.data} samples"
    figures = [
        {
            "type": name,
            "value": f"{value:.6g}",
            "slice": data,
        }
        for name, value in found.items()
        if value is not None
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": model_name(making.options.name, making.source.name),
        "version": making.options.version,
        "hashes": _hashes(digest),
        "modelCard": {"quantitativeAnalysis": {"performanceMetrics": figures}},
        "pedigree": {"ancestors": [_ancestor(making)]},
    }


def _ancestor(making: Making) -> JSON:
    return {
        "type": "machine-learning-model",
        "name": making.source.name,
        "hashes": _hashes(making.source.sha256),
    }


def _input(what: str, sha256: str) -> JSON:
    return {
        "type": "data",
        "bom-ref": f"input:{what}",
        "name": what,
        "hashes": _hashes(sha256),
    }


def _tools(making: Making) -> list[JSON]:
    found = []
    for name, version in making.tools.items():
        kind = "platform" if name == "python" else "library"
        purl = f"pkg:generic/python@{version}" if name == "python" else _purl(name, version)
        tool: JSON = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
        licences = licences_of(name)
        found.append({**tool, "licenses": licences} if licences else tool)
    return found


def _purl(name: str, version: str) -> str:
    """Return the package URL; a local version ("2.13.0+cpu") has its plus sign encoded."""
    return f"pkg:pypi/{name.lower()}@{version.replace('+', '%2B')}"


def _hashes(sha256: str) -> list[JSON]:
    return [{"alg": "SHA-256", "content": sha256}]
