"""SHA-256 as edgec writes it: 64 lowercase hexadecimal characters."""

import hashlib
import re

_DIGEST = re.compile(r"[0-9a-f]{64}")


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of `data`, 64 lowercase hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def is_digest(text: object) -> bool:
    """Return whether `text` is a str of exactly 64 lowercase hexadecimal characters."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None
