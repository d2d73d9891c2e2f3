"""Who may say what a device runs, and how a device checks it.

Signed metadata is TUF's, read and written by python-tuf; the split between image repository and
director is Uptane's. Reference: docs/reference/trust.md.
"""

from edgec_bundle.trust.acceptance import AcceptanceSet, acceptance_path, next_acceptance
from edgec_bundle.trust.device import (
    VerifiedOffer,
    VerifiedTarget,
    check_release,
    verify_offer,
)
from edgec_bundle.trust.director import (
    AssignedTarget,
    Assignment,
    TargetPath,
    parse_target_path,
    sign_assignment,
    verify_assignment,
)
from edgec_bundle.trust.folder import FolderMetadata
from edgec_bundle.trust.image import ImageRepository, Lifetimes, jump_version
from edgec_bundle.trust.keys import (
    generate_key,
    generate_signer,
    load_public,
    load_signer,
    public_from_json,
    public_path,
    public_to_json,
)
from edgec_bundle.trust.metadata import add_signature, sign
from edgec_bundle.trust.metadata_set import MAX_SET_BYTES, MetadataSet
from edgec_bundle.trust.release import (
    next_targets,
    sign_release,
    targets_path,
    verify_release,
)
from edgec_bundle.trust.root import ROLES, RoleKeys, new_root, next_root, open_root, role_keys
from edgec_bundle.trust.state import Floor, TrustState
from edgec_bundle.trust.tokens import EnrolmentToken, new_secret

__all__ = [
    "MAX_SET_BYTES",
    "ROLES",
    "AcceptanceSet",
    "AssignedTarget",
    "Assignment",
    "EnrolmentToken",
    "Floor",
    "FolderMetadata",
    "ImageRepository",
    "Lifetimes",
    "MetadataSet",
    "RoleKeys",
    "TargetPath",
    "TrustState",
    "VerifiedOffer",
    "VerifiedTarget",
    "acceptance_path",
    "add_signature",
    "check_release",
    "generate_key",
    "generate_signer",
    "jump_version",
    "load_public",
    "load_signer",
    "new_root",
    "new_secret",
    "next_acceptance",
    "next_root",
    "next_targets",
    "open_root",
    "parse_target_path",
    "public_from_json",
    "public_path",
    "public_to_json",
    "role_keys",
    "sign",
    "sign_assignment",
    "sign_release",
    "targets_path",
    "verify_assignment",
    "verify_offer",
    "verify_release",
]
