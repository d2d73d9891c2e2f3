"""Root: which keys sign for which role. Made here, and followed from version to version.

Besides the four roles of TUF, root names two of ours in a signed field: ``director`` (assigns
releases to devices) and ``acceptance`` (says how well a model line must do).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
)

from edgec_bundle.errors import MetadataError
from edgec_bundle.trust.metadata import (
    FIELD,
    OWN_ROLES,
    keyids_of,
    load,
    own_delegations,
    threshold_of,
    utc,
    verify,
)

ROLES = ("root", "targets", "snapshot", "timestamp", *OWN_ROLES)
MAX_ROOTS = 1024  # versions of root in one chain
MAX_ROOT_BYTES = 512_000

_PATHS = {"director": ["*/*/*/manifest.json"], "acceptance": ["acceptance/*"]}


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Who signs for one role: any `threshold` of `keys`."""

    keys: tuple[Key, ...]
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= len({key.keyid for key in self.keys}):
            raise ValueError("expected a threshold between 1 and the number of keys")


def new_root(
    roles: Mapping[str, RoleKeys], *, expires: datetime, version: int = 1
) -> Metadata[Root]:
    """Return an unsigned root that names exactly `roles`.

    Raises:
        ValueError: a role of `ROLES` is missing, one is unknown, or a release key is also an
            acceptance key.
    """
    if set(roles) != set(ROLES):
        raise ValueError(f"expected the roles {', '.join(ROLES)}")
    if {k.keyid for k in roles["targets"].keys} & {k.keyid for k in roles["acceptance"].keys}:
        raise ValueError("acceptance needs keys of its own, apart from the release keys")
    root = Root(version=version, expires=utc(expires), consistent_snapshot=True)
    for name in sorted(TOP_LEVEL_ROLE_NAMES):
        root.roles[name] = Role([], roles[name].threshold)
        for key in roles[name].keys:
            root.add_key(key, name)
    root.unrecognized_fields[FIELD] = {"delegations": _delegations(roles).to_dict()}
    return Metadata(root)


def _delegations(roles: Mapping[str, RoleKeys]) -> Delegations:
    keys = {key.keyid: key for name in OWN_ROLES for key in roles[name].keys}
    named = {
        name: DelegatedRole(
            name,
            [key.keyid for key in roles[name].keys],
            roles[name].threshold,
            terminating=True,
            paths=_PATHS[name],
        )
        for name in OWN_ROLES
    }
    return Delegations(keys, named)


def next_root(
    current: bytes, changes: Mapping[str, RoleKeys], *, expires: datetime
) -> Metadata[Root]:
    """Return the unsigned successor of `current`, with the roles in `changes` given new keys.

    It must be signed by the root keys of both versions.
    """
    root = open_root(current)
    roles = {name: changes.get(name) or role_keys(root, name) for name in ROLES}
    return new_root(roles, expires=expires, version=root.version + 1)


def role_keys(root: Root, role: str) -> RoleKeys:
    """Return who signs for `role`. Raises MetadataError: `root` names no such role."""
    known: Mapping[str, Any] = {**own_delegations(root).keys, **root.keys}
    keyids = sorted(keyids_of(root, role))
    return RoleKeys(tuple(known[keyid] for keyid in keyids), threshold_of(root, role))


def open_root(payload: bytes) -> Root:
    """Return the root in `payload`, which the caller trusts already; it must have signed itself.

    Raises:
        MetadataError: not well-formed, or it names no keys for a role of ours.
        SignatureError: not signed by the root keys that it names itself.
    """
    if len(payload) > MAX_ROOT_BYTES:
        raise MetadataError(f"root: expected at most {MAX_ROOT_BYTES} bytes, got {len(payload)}")
    root = verify(load(payload, Root).signed, Root.type, payload, Root)
    for role in OWN_ROLES:
        keyids_of(root, role)
    return root


def follow(trusted: Root, payload: bytes) -> Root:
    """Return the root in `payload`, proven to succeed `trusted`. Its expiry is not looked at.

    Raises:
        MetadataError: not well-formed, or not the next version.
        SignatureError: not signed by the root keys of both versions.
    """
    root = verify(trusted, Root.type, payload, Root)
    if root.version != trusted.version + 1:
        raise MetadataError(f"expected root version {trusted.version + 1}, got {root.version}")
    return open_root(payload)


def follow_chain(trusted: bytes, chain: Sequence[bytes]) -> bytes:
    """Return the newest root that `trusted` leads to; ``chain[i]`` is root version i + 1.

    Raises:
        MetadataError: a version is malformed or out of order.
        SignatureError: a version isn't signed by the keys of the one before it.
    """
    root = open_root(trusted)
    for payload in chain[root.version : MAX_ROOTS]:
        root = follow(root, payload)
        trusted = payload
    return trusted
