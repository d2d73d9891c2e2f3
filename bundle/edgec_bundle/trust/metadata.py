"""One piece of TUF metadata: read, verified, signed; and edgec's own signed fields in it.

Canonical JSON as TUF signs it has no fractions, so our fields hold text and integers only.
"""

import copy
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from securesystemslib.exceptions import Error as SigningLibraryError
from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Delegations, Metadata, Role, Root, Snapshot, Targets, Timestamp

from edgec_bundle.digest import is_digest
from edgec_bundle.errors import ExpiredError, MetadataError, SignatureError

OWN_ROLES = ("director", "acceptance")
FIELD = "x-edgec"  # the one name under which signed metadata holds fields of ours
MAX_VERSION = 2**53 - 1

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def load(payload: bytes, kind: type[S]) -> Metadata[S]:
    """Return the metadata in `payload`, of type `kind` but NOT verified.

    Raises:
        MetadataError: not well-formed metadata, or of another type.
    """
    try:
        metadata: Metadata[S] = Metadata.from_bytes(payload)
    except RepositoryError as error:
        raise MetadataError(f"not well-formed {kind.type} metadata") from error
    signed = metadata.signed
    if not isinstance(signed, kind):
        raise MetadataError(f"expected {kind.type} metadata, got {signed.type}")
    if type(signed.version) is not int or signed.version > MAX_VERSION:
        raise MetadataError(f"{kind.type}: expected a whole number as version")
    return metadata


def verify(root: Root, role: str, payload: bytes, kind: type[S]) -> S:
    """Return what is signed in `payload`, proven to be signed by `role` as `root` names it.

    Neither version nor expiry are looked at.

    Raises:
        MetadataError: not well-formed metadata of type `kind`, or `root` names no such role.
        SignatureError: fewer keys of the role signed it than its threshold asks for.
    """
    metadata = load(payload, kind)
    if len(signers_of(root, role, metadata)) < threshold_of(root, role):
        raise SignatureError(
            f"{role}: not signed by enough keys that root version {root.version} names"
        )
    return metadata.signed


def signers_of(root: Root, role: str, metadata: Metadata[Any]) -> tuple[str, ...]:
    """Return the ids of the role's keys that validly signed `metadata`, sorted."""
    try:
        result = _delegator(root, role).get_verification_result(
            role, metadata.signed_bytes, metadata.signatures
        )
    except (RepositoryError, SigningLibraryError, ValueError) as error:
        raise MetadataError(f"{role}: can't be verified: {error}") from error
    return tuple(sorted(result.signed))


def threshold_of(root: Root, role: str) -> int:
    """Return how many keys must sign for `role`. Raises MetadataError: no such role."""
    return _role(root, role).threshold


def keyids_of(root: Root, role: str) -> frozenset[str]:
    """Return the ids of the keys that may sign for `role`. Raises MetadataError: no such role."""
    return frozenset(_role(root, role).keyids)


def names_role(root: Root, role: str) -> bool:
    """Return whether `root` names keys for `role`."""
    try:
        _role(root, role)
    except MetadataError:
        return False
    return True


def _role(root: Root, role: str) -> Role:
    try:
        return _delegator(root, role).get_delegated_role(role)
    except ValueError as error:
        raise MetadataError(f"root version {root.version} names no role {role}") from error


def _delegator(root: Root, role: str) -> Root | Targets:
    """Return what names the keys of `role`: root itself, or for our roles its signed field."""
    return root if role in root.roles else Targets(delegations=own_delegations(root))


def own_delegations(root: Root) -> Delegations:
    """Return the roles that `root` names beyond those of TUF. Raises MetadataError."""
    raw = copy.deepcopy(own_fields(root).get("delegations", {"keys": {}, "roles": []}))
    try:
        return Delegations.from_dict(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetadataError("root: malformed delegations") from error


def own_fields(signed: Root | Timestamp | Snapshot | Targets) -> Mapping[str, Any]:
    """Return edgec's own fields of signed metadata. Raises MetadataError: not an object."""
    fields = signed.unrecognized_fields.get(FIELD, {})
    if not isinstance(fields, dict):
        raise MetadataError(f"{signed.type}: expected an object as {FIELD}")
    return fields


def signed_at(signed: Timestamp | Targets) -> datetime:
    """Return when `signed` was signed, by its signer's clock.

    Raises:
        MetadataError: it doesn't say, or claims a time after its own expiry.
    """
    moment = parse_time(own_fields(signed).get("signed_at"))
    if moment > signed.expires:
        raise MetadataError(f"{signed.type}: signed after its own expiry")
    return moment


def rollbacks_of(targets: Targets) -> frozenset[str]:
    """Return the manifest digests that may be installed over newer releases."""
    listed = own_fields(targets).get("rollbacks", [])
    if not isinstance(listed, list) or not all(is_digest(item) for item in listed):
        raise MetadataError("targets: expected digests as rollbacks")
    return frozenset(listed)


def check_fresh(signed: Root | Timestamp | Snapshot | Targets, role: str, now: datetime) -> None:
    """Raise ExpiredError if `signed` is no longer valid at `now`."""
    if signed.is_expired(now):
        raise ExpiredError(
            f"{role} version {signed.version} expired at {format_time(signed.expires)}"
        )


def sign(metadata: Metadata[S], *signers: Signer) -> bytes:
    """Return `metadata` with signatures of `signers` added, ready to be published.

    Raises:
        SignatureError: a signer failed.
    """
    for signer in signers:
        try:
            metadata.sign(signer, append=True)
        except RepositoryError as error:
            raise SignatureError(f"signing failed: {error}") from error
    return metadata.to_bytes()


def add_signature(payload: bytes, kind: type[S], signer: Signer) -> bytes:
    """Return `payload` with one more signature: how several key holders sign in turn."""
    return sign(load(payload, kind), signer)


def utc(moment: datetime) -> datetime:
    """Return the aware `moment` in UTC, whole seconds. Raises ValueError: no time zone."""
    if moment.tzinfo is None:
        raise ValueError("expected a datetime with a time zone")
    return moment.astimezone(UTC).replace(microsecond=0)


def format_time(moment: datetime) -> str:
    """Return `moment` as TUF writes times: RFC 3339, UTC, seconds."""
    return utc(moment).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime:
    """Return the aware datetime in `text`; the inverse of `format_time`. Raises MetadataError."""
    try:
        if isinstance(text, str) and _TIME.fullmatch(text):
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        pass
    raise MetadataError("expected a time like 2026-11-23T04:45:00Z")
