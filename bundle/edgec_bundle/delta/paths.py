"""Patches between paths: plain files, or bundles as folders or .edgeb files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from edgec_bundle._files import replacing
from edgec_bundle.archive import Bundle, is_bundle, open_bundle, restore_bundle
from edgec_bundle.delta.bsdiff import encode_whole
from edgec_bundle.delta.bundles import NAME as BUNDLE
from edgec_bundle.delta.bundles import apply_bundle_patch, make_bundle_patch
from edgec_bundle.delta.header import MAX_HEADER_BYTES, read_header
from edgec_bundle.delta.patch import (
    FORMATS,
    MAX_DIFF_BYTES,
    Patch,
    apply_patch,
    finished,
    make_patch_as,
    make_patches,
)
from edgec_bundle.errors import PatchFormatError, PatchLimitError, PatchPathError
from edgec_bundle.manifest import MAX_FILE_BYTES
from edgec_bundle.store import FileReader

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Diff:
    """What `diff_paths` made. Sizes in bytes; of a bundle, its manifest and files together."""

    format: str
    old_bytes: int
    new_bytes: int
    patch_bytes: int


def diff_paths(
    old: Path | str,
    new: Path | str,
    out: Path | str,
    format: str = AUTO,
    max_bytes: int = MAX_DIFF_BYTES,
) -> Diff:
    """Write to `out` a patch from `old` to `new`, two files or two bundles.

    Args:
        old, new, out: paths; a bundle may be a folder or an .edgeb file.
        format: one of `FORMATS`, or "auto" for whatever comes out smallest. Only "auto" makes
            a patch that holds the whole new file, when the files are too large to be compared.
        max_bytes: of an old and a new file together, for encoders that need memory.

    Raises:
        PatchFormatError: no such format.
        PatchLimitError: the files are too large for this format.
        PatchPathError: a bundle and a plain file, or a file can't be read or written.
        ArchiveError, ManifestError: a bundle is not well-formed.
    """
    old, new, out = Path(old), Path(new), Path(out)
    encode = partial(_smallest, max_bytes) if format == AUTO else partial(_as, format, max_bytes)
    _check_place(out)
    are_bundles = [path.is_dir() or is_bundle(path) for path in (old, new)]
    if are_bundles[0] != are_bundles[1]:
        raise PatchPathError(f"expected two files or two bundles, got {old} and {new}")
    with _path_errors():
        if are_bundles[0]:
            old_bundle, new_bundle = open_bundle(old), open_bundle(new)
            sizes = (_size(old_bundle), _size(new_bundle))
            patch = make_bundle_patch(old_bundle, new_bundle, encode)
        else:
            old_data, new_data = _read(old), _read(new)
            sizes = (len(old_data), len(new_data))
            patch = encode(old_data, new_data)
        with _writing(out) as stream:
            stream.write(patch.data)
    return Diff(patch.format, *sizes, len(patch.data))


def patch_path(
    old: Path | str, patch: Path | str, out: Path | str, max_bytes: int = MAX_FILE_BYTES
) -> str:
    """Write to `out` what the file `patch` makes from `old`, and return its sha256.

    A new bundle becomes a folder, or a file if `out` ends in ``.edgeb``; its digest is that of
    its manifest. Nothing is written unless all of it is right.

    Raises:
        BaseMismatchError: the patch was made from another file or bundle than `old`.
        PatchLimitError: it would make more than `max_bytes`.
        PatchFormatError: it is malformed.
        PatchPathError: a file can't be read or written.
        ArchiveError, ManifestError: a bundle is not well-formed.
    """
    old, out = Path(old), Path(out)
    with _path_errors(), _named(patch), FileReader(Path(patch)) as reader:
        header = read_header(reader.pread(MAX_HEADER_BYTES, 0))
        if header.new_bytes > max_bytes:
            raise PatchLimitError(
                f"expected at most {max_bytes} bytes, but the patch makes {header.new_bytes}"
            )
        if header.format == BUNDLE:
            manifest, files = apply_bundle_patch(reader, open_bundle(old), max_bytes)
            return restore_bundle(out, manifest, files).digest
        with FileReader(old) as base, _writing(out) as stream:
            apply_patch(
                reader,
                base,
                _FileAppender(stream),
                new_sha256=header.new_sha256,
                new_bytes=header.new_bytes,
            )
        return header.new_sha256


def _smallest(max_bytes: int, old: bytes, new: bytes) -> Patch:
    whole = finished(FORMATS[0], old, new, encode_whole(new))
    made = make_patches(old, new, FORMATS, max_bytes, len(whole.data))
    return min([whole, *made], key=lambda patch: len(patch.data))


def _as(name: str, max_bytes: int, old: bytes, new: bytes) -> Patch:
    return make_patch_as(name, old, new, max_bytes)


def _read(path: Path) -> bytes:
    with FileReader(path) as reader:
        return reader.read()


def _size(bundle: Bundle) -> int:
    return len(bundle.manifest_bytes) + sum(entry.bytes for entry in bundle.manifest.files)


class _FileAppender:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def append(self, data: bytes) -> None:
        self._stream.write(data)


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    _check_place(path)
    try:
        with replacing(path) as temporary, open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:  # it names the temporary file, which says nothing to anybody
        raise PatchPathError(f"{path}: {error.strerror or error}") from error


def _check_place(path: Path) -> None:
    """Return if a file can be put at `path`, as far as names tell. Raises PatchPathError."""
    if path.is_dir():
        raise PatchPathError(f"{path}: expected the name of a file, but a folder is there")
    if not path.parent.is_dir():
        raise PatchPathError(f"{path}: there is no folder {path.parent}")


@contextmanager
def _path_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise PatchPathError(said) from error


@contextmanager
def _named(patch: Path | str) -> Iterator[None]:
    """Say which file it is that is no well-formed patch."""
    try:
        yield
    except PatchFormatError as error:
        raise PatchFormatError(f"{patch}: {error}") from error
