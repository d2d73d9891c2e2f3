"""Make the best patch between two files, and apply any patch safely."""

from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from edgec_bundle.delta._streams import CheckedAppender, Collector, Window
from edgec_bundle.delta.bsdiff import BSDIFF4
from edgec_bundle.delta.header import MAX_HEADER_BYTES, PatchHeader, read_header
from edgec_bundle.delta.tensor import PLANES_ONLY, TENSOR
from edgec_bundle.delta.tensor.engine import is_compiled
from edgec_bundle.delta.zstd import ZSTD
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import (
    BaseMismatchError,
    DeltaError,
    PatchFormatError,
    PatchLimitError,
)
from edgec_bundle.store import Appender, BlobReader, BytesReader, sha256_of

MAX_DIFF_BYTES = 64 << 20  # of old and new file together, for the encoders that need memory

SMALL_BYTES = 32 << 20  # of both; above that, a good tensor patch is not weighed against others

_FORMATS = {one.name: one for one in (BSDIFF4, TENSOR, PLANES_ONLY, ZSTD)}
FORMATS = tuple(_FORMATS)
TENSOR_FORMATS = (TENSOR.name, PLANES_ONLY.name)

_CLEARLY_SMALLER = 0.9  # of the compressed full file; below that a patch isn't worth its risks
_FULL_LEVEL = 9


@dataclass(frozen=True, slots=True)
class Patch:
    """A finished patch, header and all."""

    format: str
    data: bytes


def make_patch(
    old: bytes,
    new: bytes,
    formats: Sequence[str] = FORMATS,
    max_bytes: int = MAX_DIFF_BYTES,
) -> Patch | None:
    """Return the smallest patch from `old` to `new`, or None if the full file does as well.

    None also if no format can do it within `max_bytes` (of `old` and `new` together). Formats
    that are not known here are passed over: a device may know more than its server. The patch
    was applied once, so it is known to work. May take minutes and much memory: not for a thread
    that has other duties.
    """
    worth = _CLEARLY_SMALLER * len(zstandard.ZstdCompressor(level=_FULL_LEVEL).compress(new))
    patches = make_patches(old, new, formats, max_bytes, worth)
    smallest = min(patches, key=lambda patch: len(patch.data), default=None)
    return smallest if smallest is not None and len(smallest.data) <= worth else None


def make_patches(
    old: bytes, new: bytes, formats: Sequence[str], max_bytes: int, worth: float
) -> list[Patch]:
    """Return patches in those of `formats` that may give the smallest one.

    Above `SMALL_BYTES` the formats that look at whole files are spared, if there is a tensor
    patch of at most `worth` bytes.
    """
    wanted = [name for name in formats if name in _FORMATS]
    if TENSOR.name in wanted:  # it can all that planes can
        wanted = [name for name in wanted if name != PLANES_ONLY.name]
    wanted.sort(key=lambda name: name not in TENSOR_FORMATS)
    made: list[Patch] = []
    for name in wanted:
        is_large = len(old) + len(new) > SMALL_BYTES
        if is_large and any(len(patch.data) <= worth for patch in made):
            break
        patch = _encode(name, old, new, max_bytes)
        made += [] if patch is None else [patch]
    return made


def device_formats() -> tuple[str, ...]:
    """Return the formats that this machine should tell a server it applies.

    All need less than 32 MiB, and little time; but ``tensor`` only with `edgec-accel`. Without it
    numpy reads such patches too, in 64 MiB and about half a second for each megabyte of int8
    weights: a device that would rather wait than pay for bytes may add it.
    """
    return tuple(name for name in FORMATS if is_compiled() or name != TENSOR.name)


def make_patch_as(name: str, old: bytes, new: bytes, max_bytes: int = MAX_DIFF_BYTES) -> Patch:
    """Return the patch from `old` to `new` in the format `name`, however large it is.

    Raises:
        PatchFormatError: no such format.
        PatchLimitError: the files are too large for it.
    """
    if name not in _FORMATS:
        raise PatchFormatError(f"expected a format of {', '.join(FORMATS)}, got {name}")
    return finished(name, old, new, _FORMATS[name].encode(old, new, max_bytes))


def finished(name: str, old: bytes, new: bytes, body: bytes) -> Patch:
    """Return the patch with this `body`, tried once.

    Raises:
        DeltaError: it doesn't make `new` from `old`.
    """
    header = PatchHeader(name, sha256_hex(old), len(old), sha256_hex(new), len(new))
    patch = Patch(name, header.to_bytes() + body)
    apply_patch(
        BytesReader(patch.data),
        BytesReader(old),
        Collector(),
        new_sha256=header.new_sha256,
        new_bytes=len(new),
    )
    return patch


def apply_patch(
    patch: BlobReader,
    old: BlobReader,
    out: Appender,
    *,
    new_sha256: str,
    new_bytes: int,
) -> None:
    """Append to `out` the file that `patch` makes from `old`.

    The patch is a stranger's; `new_sha256` and `new_bytes` are what the signed manifest says.
    Memory is constant. After an error `out` holds some bytes of no use.

    Raises:
        BaseMismatchError: the patch was made from another file than `old`.
        PatchLimitError: it would make more than `new_bytes`.
        PatchFormatError: it is malformed, or makes another file.
    """
    header = _wanted_header(patch, new_sha256, new_bytes)
    found = sha256_of(old)
    if (header.old_bytes, header.old_sha256) != (old.size, found):
        raise BaseMismatchError(expected=header.old_sha256, found=found)
    header_bytes = len(header.to_bytes())
    body = Window(patch, header_bytes, patch.size - header_bytes)
    checked = CheckedAppender(out, new_bytes)
    _FORMATS[header.format].apply(body, old, checked, new_bytes)
    if (checked.written, checked.sha256) != (new_bytes, new_sha256):
        raise PatchFormatError(
            f"expected the patch to make {new_sha256} of {new_bytes} bytes, "
            f"got {checked.sha256} of {checked.written}"
        )


def _wanted_header(patch: BlobReader, new_sha256: str, new_bytes: int) -> PatchHeader:
    """Return the header of `patch`, if it claims to make the file that is wanted."""
    header = read_header(patch.pread(MAX_HEADER_BYTES, 0))
    if header.format not in _FORMATS:
        raise PatchFormatError(f"expected a patch of a file, got one of format {header.format}")
    if header.new_bytes > new_bytes:
        raise PatchLimitError(f"expected {new_bytes} bytes, but the patch makes {header.new_bytes}")
    if (header.new_bytes, header.new_sha256) != (new_bytes, new_sha256):
        raise PatchFormatError(
            f"expected a patch to the file {new_sha256} of {new_bytes} bytes, "
            f"got one to {header.new_sha256} of {header.new_bytes}"
        )
    return header


def _encode(name: str, old: bytes, new: bytes, max_bytes: int) -> Patch | None:
    try:
        return make_patch_as(name, old, new, max_bytes)
    except DeltaError:  # too large for the format: the full file does as well
        return None
