"""What every patch format brings: one encoder, one decoder."""

from collections.abc import Callable
from dataclasses import dataclass

from edgec_bundle.store import Appender, BlobReader


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write a patch's body, which follows the common header.

    Attributes:
        name: a key of `header.CODES`.
        encode: ``encode(old, new, max_bytes)`` returns the body that makes `new` from `old`.
            Raises PatchLimitError if old and new together are above `max_bytes`, or would take
            unreasonably long.
        apply: ``apply(body, old, out, new_bytes)`` appends at most `new_bytes` to `out`, in
            constant memory, whatever `body` holds. It need not check digests.
            Raises PatchFormatError, PatchLimitError.
    """

    name: str
    encode: Callable[[bytes, bytes, int], bytes]
    apply: Callable[[BlobReader, BlobReader, Appender, int], None]
