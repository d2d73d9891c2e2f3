"""What a bundle is: its manifest, its files, its proofs, its deltas, and the words of the wire.

The names below are the base that everybody needs. Larger rooms have doors of their own:
`edgec_bundle.delta`, `edgec_bundle.trust` and `edgec_bundle.messages`, and those that need numpy,
`edgec_bundle.histograms` and `edgec_bundle.npz`.
"""

from edgec_bundle.archive import Bundle, open_bundle, pack_bundle, restore_bundle, write_bundle
from edgec_bundle.digest import is_digest, sha256_hex
from edgec_bundle.errors import (
    ArchiveError,
    BundleError,
    DeltaError,
    ManifestError,
    MessageError,
    StoreError,
    TrustError,
)
from edgec_bundle.manifest import (
    DEVICE_ROLES,
    ROLES,
    FileEntry,
    Golden,
    Limits,
    Manifest,
    Requires,
    Runtime,
    Step,
    TensorSpec,
    target_path,
)
from edgec_bundle.semver import SemVer
from edgec_bundle.store import BlobReader, BlobStore, FolderBlobStore, PartialBlob

__all__ = [
    "DEVICE_ROLES",
    "ROLES",
    "ArchiveError",
    "BlobReader",
    "BlobStore",
    "Bundle",
    "BundleError",
    "DeltaError",
    "FileEntry",
    "FolderBlobStore",
    "Golden",
    "Limits",
    "Manifest",
    "ManifestError",
    "MessageError",
    "PartialBlob",
    "Requires",
    "Runtime",
    "SemVer",
    "Step",
    "StoreError",
    "TensorSpec",
    "TrustError",
    "is_digest",
    "open_bundle",
    "pack_bundle",
    "restore_bundle",
    "sha256_hex",
    "target_path",
    "write_bundle",
]
