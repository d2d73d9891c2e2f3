"""Deltas: make a new file from an old one and a patch that a stranger may have written.

A patch names the sha256 and size of both files; both are checked, before and after. Applying
takes constant memory, whatever the patch says, and never writes more than the caller allows.

Each format is one module with one `Format`; `patch.py` lists them, and nothing else knows them.
The bytes are docs/reference/delta.md.
"""

from edgec_bundle.delta.header import PatchHeader, read_header
from edgec_bundle.delta.patch import (
    FORMATS,
    MAX_DIFF_BYTES,
    SMALL_BYTES,
    TENSOR_FORMATS,
    Patch,
    apply_patch,
    device_formats,
    make_patch,
    make_patch_as,
)
from edgec_bundle.delta.paths import Diff, diff_paths, patch_path

__all__ = [
    "FORMATS",
    "MAX_DIFF_BYTES",
    "SMALL_BYTES",
    "TENSOR_FORMATS",
    "Diff",
    "Patch",
    "PatchHeader",
    "apply_patch",
    "device_formats",
    "diff_paths",
    "make_patch",
    "make_patch_as",
    "patch_path",
    "read_header",
]
