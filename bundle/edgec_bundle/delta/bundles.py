"""Patches between whole bundles: one patch per file, chained behind the common header.

The header names the two manifests. Each record makes one file of the new bundle, the manifest
first, from the file of the old bundle that its own header names. An empty record stands for a
file that the old bundle has already.
"""

from collections.abc import Callable, Iterator

from edgec_bundle.archive import Bundle
from edgec_bundle.delta._streams import Collector, Window
from edgec_bundle.delta.header import (
    MAX_HEADER_BYTES,
    PatchHeader,
    read_header,
    read_varint,
    write_varint,
)
from edgec_bundle.delta.patch import Patch, apply_patch
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import BaseMismatchError, PatchFormatError, PatchLimitError
from edgec_bundle.manifest import MAX_MANIFEST_BYTES, Manifest
from edgec_bundle.store import BlobReader, BytesReader

NAME = "bundle"

Encode = Callable[[bytes, bytes], Patch]


def make_bundle_patch(old: Bundle, new: Bundle, encode: Encode) -> Patch:
    """Return the patch from `old` to `new`, each file made by ``encode(old, new)``."""
    known = {entry.sha256 for entry in old.manifest.files}
    header = PatchHeader(
        NAME, old.digest, len(old.manifest_bytes), new.digest, len(new.manifest_bytes)
    )
    records = [encode(old.manifest_bytes, new.manifest_bytes).data]
    for entry in new.manifest.files:
        base = old.read(entry.role) if old.manifest.has(entry.role) else b""
        data = new.read(entry.role)
        records.append(b"" if entry.sha256 in known else encode(base, data).data)
    body = b"".join(write_varint(len(record)) + record for record in records)
    return Patch(NAME, header.to_bytes() + body)


def apply_bundle_patch(
    patch: BlobReader, old: Bundle, max_bytes: int
) -> tuple[Manifest, dict[str, bytes]]:
    """Return manifest and files (by role) of the bundle that `patch` makes from `old`.

    Raises:
        BaseMismatchError: the patch was made from another bundle.
        PatchLimitError: the new bundle would be larger than `max_bytes`.
        PatchFormatError: it is malformed, or makes something else than it claims.
        ManifestError: what it makes is no bundle.
    """
    header = read_header(patch.pread(MAX_HEADER_BYTES, 0))
    if header.format != NAME:
        raise PatchFormatError(f"expected a patch of a bundle, got one of format {header.format}")
    if (header.old_sha256, header.old_bytes) != (old.digest, len(old.manifest_bytes)):
        raise BaseMismatchError(expected=header.old_sha256, found=old.digest)
    if header.new_bytes > MAX_MANIFEST_BYTES:
        raise PatchLimitError(f"expected a manifest of at most {MAX_MANIFEST_BYTES} bytes")
    records = _records(patch, len(header.to_bytes()))
    payload = _make(records, old, header.new_sha256, header.new_bytes)
    manifest = Manifest.from_bytes(payload)
    total = sum(entry.bytes for entry in manifest.files)
    if total > max_bytes:
        raise PatchLimitError(f"expected at most {max_bytes} bytes of files, got {total}")
    files = {entry.role: _make(records, old, entry.sha256, entry.bytes) for entry in manifest.files}
    if next(records, None) is not None:
        raise PatchFormatError("expected no further records in the patch")
    return manifest, files


def _records(patch: BlobReader, at: int) -> Iterator[Window]:
    while at < patch.size:
        length, used = read_varint(patch.pread(10, at), 0)
        at += used
        yield Window(patch, at, length)
        at += length


def _make(records: Iterator[Window], old: Bundle, sha256: str, size: int) -> bytes:
    record = next(records, None)
    if record is None:
        raise PatchFormatError("expected one record per file in the patch, got fewer")
    if record.size == 0:
        return _old_file(old, sha256)
    base = _old_file(old, read_header(record.pread(MAX_HEADER_BYTES, 0)).old_sha256)
    made = Collector()
    apply_patch(record, BytesReader(base), made, new_sha256=sha256, new_bytes=size)
    return made.collected()


def _old_file(old: Bundle, sha256: str) -> bytes:
    """Return what the old bundle has with this digest: a file, its manifest, or nothing at all."""
    for entry in old.manifest.files:
        if entry.sha256 == sha256:
            return old.read(entry.role)
    for data in (old.manifest_bytes, b""):
        if sha256_hex(data) == sha256:
            return data
    raise PatchFormatError(f"expected a patch of files of the old bundle, it names {sha256}")
