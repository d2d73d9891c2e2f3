"""Where the tensors of a model file lie. Nothing is interpreted, copied or trusted.

A parser is given bytes that a stranger may have made, and answers with byte ranges inside of
them. What it doesn't understand is simply not a tensor: the caller treats it as plain bytes.
"""

from dataclasses import dataclass
from typing import Protocol

MAX_TENSORS = 1 << 16
MAX_RANK = 8

# name -> (number on the wire, bits of one element)
DTYPES = {
    "int8": (0, 8),
    "uint8": (1, 8),
    "int4": (2, 4),
    "int16": (3, 16),
    "int32": (4, 32),
    "float16": (5, 16),
    "float32": (6, 32),
    "bfloat16": (7, 16),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's bytes inside of a file.

    Attributes:
        name: what the file calls it; may be empty or shared.
        dtype: a key of `DTYPES`.
        shape: as in the file; its product need not fit `size` (then it is of no use).
        offset, size: the byte range. int4 is packed, two to a byte, the lower half first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.size

    @property
    def elements(self) -> int:
        """How many elements there are, the padding of int4 included."""
        return self.size * 8 // DTYPES[self.dtype][1]


class Bytes(Protocol):
    """Bytes in memory or in a mapped file."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> bytes: ...


class NotAModelError(Exception):
    """The bytes are not a file of this kind, or not a sound one."""


def without_overlaps(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Return `tensors` by offset; of two that share bytes only the first."""
    kept: list[Tensor] = []
    for tensor in sorted(tensors, key=lambda one: (one.offset, -one.size)):
        if tensor.size and (not kept or tensor.offset >= kept[-1].end):
            kept.append(tensor)
    return tuple(kept)
