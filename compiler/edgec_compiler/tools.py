"""Names and versions of everything that has a say in a bundle's bytes."""

import platform
from importlib import metadata
from typing import Any

_PACKAGES = (
    "ai-edge-litert",
    "ai-edge-quantizer",
    "edgec",
    "ethos-u-vela",
    "litert-converter",
    "litert-torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxslim",
    "Pillow",
    "torch",
)
# Licences as packages call them -> SPDX identifiers, where only one can be meant.
_SPDX = {
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "Apache License v2.0": "Apache-2.0",
    "MIT License": "MIT",
    "MIT": "MIT",
    "BSD-3-Clause": "BSD-3-Clause",
}
_LONGEST_NAME = 80  # beyond it, the field holds the licence's whole text


def tool_versions() -> dict[str, str]:
    """Return {package: version} of what is installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def licences_of(package: str) -> list[dict[str, Any]]:
    """Return what a package says of its licence, as CycloneDX writes it; [] if nothing."""
    if package == "python":
        return [{"license": {"id": "PSF-2.0"}}]
    try:
        facts = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return []
    if "License-Expression" in facts:
        return [{"expression": facts["License-Expression"]}]
    named = [
        line.rpartition(" :: ")[2]
        for line in facts.get_all("Classifier") or ()
        if line.startswith("License :: ") and not line.endswith(":: OSI Approved")
    ]
    text = facts["License"].strip() if "License" in facts else ""
    if not named and text and len(text) < _LONGEST_NAME and "\n" not in text:
        named = [text]
    return [{"license": _licence(name)} for name in sorted(set(named))]


def _licence(name: str) -> dict[str, str]:
    known = _SPDX.get(name)
    return {"name": name} if known is None else {"id": known}
