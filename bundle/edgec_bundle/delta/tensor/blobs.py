"""Byte strings inside a record: length first, compressed where that helps, never a bomb."""

import zstandard

from edgec_bundle.delta.header import read_varint, write_varint
from edgec_bundle.errors import PatchFormatError

MAX_WINDOW_BYTES = 1 << 23
_LEVEL = 12


def write_blob(data: bytes, level: int = _LEVEL) -> bytes:
    """Return `data` behind its length, as it is or compressed, whichever is shorter."""
    plain = write_varint(len(data) << 1) + data
    if len(data) < 8:
        return plain
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, write_content_size=0, write_checksum=0, write_dict_id=0, format=_FORMAT
    )
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(data)
    squeezed = write_varint(len(data) << 1 | 1) + write_varint(len(packed)) + packed
    return min(plain, squeezed, key=len)


def read_blob(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """Return the byte string at `at`, of at most `most` bytes, and the place after it.

    Raises:
        PatchFormatError: it is malformed or longer.
    """
    head, at = read_varint(data, at)
    size = head >> 1
    if size > most:
        raise PatchFormatError(f"expected at most {most} bytes in a part of the patch, got {size}")
    stored, at = read_varint(data, at) if head & 1 else (size, at)
    end = at + stored
    if end > len(data):
        raise PatchFormatError("expected more bytes in a record of the patch")
    body = data[at:end]
    return (_decompressed(body, size) if head & 1 else body), end


def _decompressed(body: bytes, size: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES, format=_FORMAT)
    try:
        with decompressor.stream_reader(body, read_across_frames=False) as reader:
            data = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise PatchFormatError(f"a part of the patch: {error}") from error
    if len(data) != size:
        raise PatchFormatError(f"expected a part of the patch to have {size} bytes")
    return data


_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS
