"""The release keys' document, targets.json: which bundles are genuine. Made wherever the key is.

A release is signed on the machine that holds the release key: `sign_release` takes the document
now in force, adds the new bundles and signs; the server only checks and publishes the result.
"""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import (
    Metadata,
    Role,
    Root,
    TargetFile,
    Targets,
)

from edgec_bundle.digest import is_digest, sha256_hex
from edgec_bundle.errors import MetadataError, WithdrawnError
from edgec_bundle.manifest import Manifest, target_path
from edgec_bundle.trust.metadata import FIELD, check_fresh, load, rollbacks_of, sign, utc, verify
from edgec_bundle.trust.root import open_root

MAX_TARGETS_BYTES = 5_000_000


def next_targets(
    current: bytes | None,
    *,
    expires: datetime,
    add: Iterable[bytes] = (),
    withdraw: Iterable[str] = (),
    allow_rollback: Iterable[str] = (),
    version: int | None = None,
) -> Metadata[Targets]:
    """Return the unsigned successor of `current`.

    Args:
        current: the targets.json now in force, verified by the caller; None for the first.
        expires: of the new document.
        add: manifests, as bytes.
        withdraw: target paths that shall no longer be installed by anybody.
        allow_rollback: manifest digests that may be installed over newer releases.
        version: of the new document; by default one above `current`.

    Raises:
        ManifestError: what is added is not a manifest.
        MetadataError: a version was released before with other bytes.
        WithdrawnError: what shall be withdrawn or rolled back to isn't listed.
    """
    before = load(current, Targets).signed if current is not None else Targets(version=1)
    listed, rollbacks = dict(before.targets), set(rollbacks_of(before))
    for payload in add:
        _add(listed, payload)
    for path in withdraw:
        if listed.pop(path, None) is None:
            raise WithdrawnError(f"{path} isn't listed, so it can't be withdrawn")
    digests = {target.hashes.get("sha256") for target in listed.values()}
    for digest in allow_rollback:
        if not is_digest(digest) or digest not in digests:
            raise WithdrawnError(f"no release has digest {digest}, so none can be rolled back to")
        rollbacks.add(digest)
    number = version or (1 if current is None else before.version + 1)
    targets = Targets(version=number, expires=utc(expires), targets=listed)
    targets.unrecognized_fields[FIELD] = {"rollbacks": sorted(rollbacks & digests)}
    return Metadata(targets)


def _add(listed: dict[str, TargetFile], payload: bytes) -> None:
    path = target_path(Manifest.from_bytes(payload))
    target = TargetFile.from_data(path, payload, ["sha256"])
    if listed.setdefault(path, target) != target:
        raise MetadataError(f"{path} was released before with other bytes; give a new version")


def sign_release(
    manifests: Iterable[bytes],
    current: bytes | None,
    signer: Signer,
    *,
    expires: datetime,
    root: bytes | None = None,
    version: int | None = None,
) -> bytes:
    """Return a finished targets.json that lists what `current` lists, and `manifests`.

    `current` may come from a server that nobody trusts: it must be signed by the release keys
    that `root` names, or without `root` by `signer` itself.

    Raises:
        SignatureError: `current` isn't signed so, or signing failed.
        ManifestError, MetadataError: see `next_targets`.
    """
    if current is not None:
        verify(_authority(signer, root), Targets.type, current, Targets)
    draft = next_targets(current, expires=expires, add=manifests, version=version)
    return sign(draft, signer)


def _authority(signer: Signer, root: bytes | None) -> Root:
    if root is not None:
        return open_root(root)
    alone = Root()
    alone.roles[Targets.type] = Role([signer.public_key.keyid], 1)
    alone.keys[signer.public_key.keyid] = signer.public_key
    return alone


def verify_release(manifest: bytes, root: bytes, targets: bytes, now: datetime) -> None:
    """Return if the release keys that `root` names list exactly this manifest.

    Raises:
        SignatureError: `targets` isn't signed by enough release keys.
        ExpiredError: it was, but is no longer valid at `now`.
        WithdrawnError: it doesn't list the manifest, or one with other bytes.
    """
    document = verify(open_root(root), Targets.type, targets, Targets)
    check_fresh(document, Targets.type, now)
    path = target_path(Manifest.from_bytes(manifest))
    check_listed(document, path, len(manifest), sha256_hex(manifest))


def check_listed(targets: Targets, path: str, length: int, sha256: str) -> None:
    """Raise WithdrawnError unless `targets` lists `path` with this length and digest."""
    target = targets.targets.get(path)
    if target is None:
        raise WithdrawnError(f"{path} is not, or no longer, listed by the release keys")
    if target.length != length or target.hashes.get("sha256") != sha256:
        raise WithdrawnError(f"{path} is listed by the release keys with another digest")


def targets_path(bundle: Path) -> Path:
    """Return where the finished targets.json of the bundle at `bundle` lies."""
    if bundle.is_dir():
        return bundle / "targets.json"
    return bundle.with_name(bundle.name + ".targets.json")
