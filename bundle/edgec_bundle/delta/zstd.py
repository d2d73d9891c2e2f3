"""The ``zstd`` format: the new file compressed, with the old one as what was seen before.

Good for texts and archives of a few kilobytes, manifests above all. Decoding needs the old file
in memory, so it is for small files only.

Source: RFC 8878; the frame has neither magic number nor sizes, which the patch's header has.
"""

import zstandard

from edgec_bundle.delta.format import Format
from edgec_bundle.errors import PatchFormatError, PatchLimitError
from edgec_bundle.store import Appender, BlobReader

MAX_BYTES = 4 << 20  # of each file
_MAX_WINDOW_BYTES = 1 << 23
_LEVEL = 19
_PIECE = 64  # of the body: what 16 blocks take at least, so 2 MiB are made at most


def encode(old: bytes, new: bytes, max_bytes: int) -> bytes:
    """Return the body of a patch from `old` to `new`.

    Raises:
        PatchLimitError: one of the files is above 4 MiB, or both together above `max_bytes`.
    """
    if max(len(old), len(new)) > MAX_BYTES or len(old) + len(new) > max_bytes:
        raise PatchLimitError(f"expected files of at most {MAX_BYTES} bytes for zstd")
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        window_log=max(10, (len(old) + len(new)).bit_length()),
        write_content_size=0,
        write_checksum=0,
        write_dict_id=0,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
    )
    seen = _dictionary(old)
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=seen).compress(new)


def apply(body: BlobReader, old: BlobReader, out: Appender, new_bytes: int) -> None:
    """Append to `out` the `new_bytes` that `body` makes from `old`.

    Takes some 25 MiB at most, whatever `body` holds.

    Raises:
        PatchFormatError: `body` is malformed.
        PatchLimitError: a file is above 4 MiB, or `body` makes more than `new_bytes`.
    """
    if old.size > MAX_BYTES or new_bytes > MAX_BYTES or body.size > 2 * MAX_BYTES:
        raise PatchLimitError(f"expected files of at most {MAX_BYTES} bytes for zstd")
    decompressor = zstandard.ZstdDecompressor(
        dict_data=_dictionary(old.read()),
        max_window_size=_MAX_WINDOW_BYTES,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
    )
    stream = decompressor.decompressobj()
    made = fed = 0
    while fed < body.size and not stream.eof:
        try:
            data = stream.decompress(body.pread(_PIECE, fed))
        except zstandard.ZstdError as error:
            raise PatchFormatError(f"the compressed part of the patch: {error}") from error
        made, fed = made + len(data), min(body.size, fed + _PIECE)
        if made > new_bytes:
            raise PatchLimitError(f"expected {new_bytes} bytes, but the patch makes more")
        out.append(data)
    if not stream.eof or stream.unused_data or fed < body.size or made != new_bytes:
        raise PatchFormatError("the patch is damaged: its compressed part ends in the wrong place")


def _dictionary(old: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


ZSTD = Format("zstd", encode, apply)
