"""The director's document: what one device shall run, for a while, from one counter value on.

It is stock targets metadata, signed by the role ``director`` that root names; the version is the
counter, and tenant and device stand in our signed field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edgec_bundle.digest import is_digest
from edgec_bundle.errors import ManifestError, MetadataError
from edgec_bundle.manifest import MANIFEST_NAME, NAME
from edgec_bundle.semver import SemVer
from edgec_bundle.trust.metadata import (
    FIELD,
    format_time,
    own_fields,
    sign,
    signed_at,
    utc,
    verify,
)

ROLE = "director"
MAX_DIRECTOR_BYTES = 256 * 1024
MAX_ASSIGNED = 64  # models on one device


@dataclass(frozen=True, slots=True)
class AssignedTarget:
    """One release, by its target path and its manifest's size and digest."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class TargetPath:
    """The parts of ``MODEL/VERSION/PROFILE/manifest.json``."""

    model: str
    version: str
    profile: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}/{self.profile}/{MANIFEST_NAME}"


def parse_target_path(path: str) -> TargetPath:
    """Return the parts of `path`; the inverse of str(). Raises MetadataError."""
    match path.split("/"):
        case [model, version, profile, name] if (
            name == MANIFEST_NAME and NAME.fullmatch(model) and NAME.fullmatch(profile)
        ):
            try:
                SemVer.parse(version)
            except ManifestError as error:
                raise MetadataError(f"target path: {error}") from error
            return TargetPath(model, version, profile)
    raise MetadataError(f"expected MODEL/VERSION/PROFILE/{MANIFEST_NAME}, got {path[:200]!r}")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the director wants one device to run: at most one release of each model."""

    tenant: str
    device: str
    counter: int  # grows with each assignment to this device
    issued: datetime  # aware, whole seconds
    expires: datetime  # aware, whole seconds
    targets: tuple[AssignedTarget, ...] = ()

    def by_model(self) -> Mapping[str, AssignedTarget]:
        """Return the targets by model.

        Raises:
            MetadataError: a path is malformed, or a model occurs twice.
        """
        found = {parse_target_path(target.path).model: target for target in self.targets}
        if len(found) != len(self.targets):
            raise MetadataError("assignment: expected one release of each model")
        return MappingProxyType(found)


def sign_assignment(assignment: Assignment, signer: Signer) -> bytes:
    """Return the director's signed document for `assignment`.

    Raises:
        MetadataError: the assignment is one that devices would refuse.
        SignatureError: the signer failed.
    """
    assignment.by_model()
    document = Targets(
        version=assignment.counter,
        expires=utc(assignment.expires),
        targets={
            target.path: TargetFile(target.bytes, {"sha256": target.sha256}, target.path)
            for target in assignment.targets
        },
        unrecognized_fields={
            FIELD: {
                "tenant": assignment.tenant,
                "device": assignment.device,
                "signed_at": format_time(assignment.issued),
            }
        },
    )
    _read(document)
    return sign(Metadata(document), signer)


def verify_assignment(root: Root, payload: bytes) -> Assignment:
    """Return the assignment in `payload`, proven to be signed by the director.

    For whom it is, its counter and its expiry are left to the caller.

    Raises:
        MetadataError: too large or malformed.
        SignatureError: not signed by the director's keys that `root` names.
    """
    if len(payload) > MAX_DIRECTOR_BYTES:
        raise MetadataError(f"assignment: expected at most {MAX_DIRECTOR_BYTES} bytes")
    return _read(verify(root, ROLE, payload, Targets))


def _read(document: Targets) -> Assignment:
    if len(document.targets) > MAX_ASSIGNED:
        raise MetadataError(f"assignment: expected at most {MAX_ASSIGNED} models")
    match own_fields(document):
        case {"tenant": str(tenant), "device": str(device)} if NAME.fullmatch(
            tenant
        ) and NAME.fullmatch(device):
            assignment = Assignment(
                tenant=tenant,
                device=device,
                counter=document.version,
                issued=signed_at(document),
                expires=document.expires,
                targets=tuple(_target(target) for target in document.targets.values()),
            )
            assignment.by_model()
            return assignment
    raise MetadataError("assignment: expected the tenant and the device it is for")


def _target(target: TargetFile) -> AssignedTarget:
    sha256 = target.hashes.get("sha256")
    if not is_digest(sha256) or type(target.length) is not int:
        raise MetadataError("assignment: expected length and sha256 of each target")
    return AssignedTarget(target.path, str(sha256), target.length)
