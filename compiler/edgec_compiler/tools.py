"""Names and versions of everything that has a say in a bundle's bytes."""

import platform
from importlib import metadata

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


def tool_versions() -> dict[str, str]:
    """Return {package: version} of what is installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return dict(sorted(found.items()))
