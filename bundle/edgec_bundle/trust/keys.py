"""Keys of roles: made, stored and loaded. All signing goes through securesystemslib signers.

A private key is named by a URI, and may lie in a file (``file2:/path/release.pem``, or only the
path), a PKCS#11 token (``hsm:``) or a cloud KMS (``awskms:``, ``gcpkms:``, ``azurekms:``). The
public key lies beside as JSON: for files at PATH.pub.json, for all others where the URI's
fragment says: ``awskms:alias/release#/etc/edgec/release.pub.json``.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, Signer

from edgec_bundle.errors import TrustError

SCHEMES = ("ed25519", "ecdsa-sha2-nistp256", "rsassa-pss-sha256", "ml-dsa-65/1")

_MAX_PUBLIC_BYTES = 64 * 1024


def generate_signer(scheme: str = "ed25519") -> CryptoSigner:
    """Return a new key pair that lives in memory only. Raises ValueError: unknown scheme."""
    match scheme:
        case "ed25519":
            return CryptoSigner.generate_ed25519()
        case "ecdsa-sha2-nistp256":
            return CryptoSigner.generate_ecdsa(scheme=scheme)
        case "rsassa-pss-sha256":
            return CryptoSigner.generate_rsa(scheme=scheme)
        case "ml-dsa-65/1":
            return CryptoSigner.generate_mldsa(scheme=scheme)
    raise ValueError(f"expected one of {', '.join(SCHEMES)}, got {scheme!r}")


def generate_key(path: Path, scheme: str = "ed25519") -> CryptoSigner:
    """Write a new private key to `path` (mode 0600) and its public key to PATH.pub.json.

    Returns:
        A signer with that key; ``load_signer(str(path))`` gives another.

    Raises:
        FileExistsError: `path` exists; a key is never overwritten.
        ValueError: unknown scheme.
    """
    signer = generate_signer(scheme)
    _write_new(path, signer.private_bytes, mode=0o600)
    _write_new(public_path(path), public_to_json(signer.public_key), mode=0o644)
    return signer


def public_path(path: Path) -> Path:
    """Return where the public key of the private key file `path` lies."""
    return path.with_name(path.name + ".pub.json")


def public_to_json(key: Key) -> bytes:
    """Return the public `key` as JSON with its key id."""
    return json.dumps({"keyid": key.keyid, **key.to_dict()}, indent=2, sort_keys=True).encode()


def public_from_json(payload: bytes) -> Key:
    """Parse `payload`; the inverse of `public_to_json`.

    Raises:
        TrustError: not a public key of a scheme that is known here.
    """
    try:
        raw = json.loads(payload[:_MAX_PUBLIC_BYTES])
        return Key.from_dict(raw.pop("keyid"), raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TrustError("not a public key in JSON, as edgec writes it beside a key") from error


def load_public(path: Path) -> Key:
    """Return the public key in the JSON file `path`. Raises TrustError."""
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise TrustError(f"public key {path} can't be read: {error.strerror}") from error
    return public_from_json(payload)


def load_signer(uri: str, secrets: Callable[[str], str] | None = None) -> Signer:
    """Return the signer that `uri` names; see the top of this module.

    Args:
        uri: of the private key.
        secrets: asked for a PIN or passphrase by its name, if the key needs one.

    Raises:
        TrustError: unknown scheme, the key can't be reached, or its halves don't match.
    """
    location, _, public = uri.partition("#")
    if ":" not in location:
        location = f"{CryptoSigner.SCHEME}:{location}"
    scheme, _, rest = location.partition(":")
    if not rest:
        raise TrustError(f"expected the path or URI of a private key, got {uri!r}")
    if not public and scheme != CryptoSigner.SCHEME:
        raise TrustError(f"key {uri}: expected #PATH of the public key's JSON at its end")
    key = load_public(Path(public) if public else public_path(Path(rest)))
    try:
        return Signer.from_priv_key_uri(location, key, secrets)
    except Exception as error:  # each kind of signer raises errors of its own
        raise TrustError(f"key {uri} can't be loaded: {error}") from error


def _write_new(path: Path, payload: bytes, mode: int) -> None:
    """Write a file that didn't exist, durably."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
