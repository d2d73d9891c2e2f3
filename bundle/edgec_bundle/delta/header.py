"""The header that every patch starts with, and the integers it is written in."""

from dataclasses import dataclass

from edgec_bundle.errors import PatchFormatError

MAGIC = b"EDGD"
MAX_HEADER_BYTES = len(MAGIC) + 3 * 10 + 2 * 32
MAX_VARINT = 2**63 - 1

CODES = {"bsdiff4": 1, "tensor": 2, "bundle": 3, "zstd": 4, "tensor-planes": 5}  # never reused
_NAMES = {code: name for name, code in CODES.items()}


@dataclass(frozen=True, slots=True)
class PatchHeader:
    """From which file the patch leads to which other; claims, until both were hashed."""

    format: str
    old_sha256: str
    old_bytes: int
    new_sha256: str
    new_bytes: int

    def to_bytes(self) -> bytes:
        """Return the header as it stands at the start of a patch."""
        return b"".join(
            (
                MAGIC,
                write_varint(CODES[self.format]),
                write_varint(self.old_bytes),
                bytes.fromhex(self.old_sha256),
                write_varint(self.new_bytes),
                bytes.fromhex(self.new_sha256),
            )
        )


def read_header(data: bytes) -> PatchHeader:
    """Return the header at the start of `data`; the inverse of `PatchHeader.to_bytes`.

    Raises:
        PatchFormatError: `data` doesn't start with one, or its format is unknown.
    """
    if not data.startswith(MAGIC):
        raise PatchFormatError("expected a patch, got something else")
    code, at = read_varint(data, len(MAGIC))
    if code not in _NAMES:
        raise PatchFormatError(f"expected a known patch format, got number {code}")
    old_bytes, at = read_varint(data, at)
    old_sha256, at = _read_digest(data, at)
    new_bytes, at = read_varint(data, at)
    new_sha256, at = _read_digest(data, at)
    return PatchHeader(_NAMES[code], old_sha256, old_bytes, new_sha256, new_bytes)


def write_varint(value: int) -> bytes:
    """Return `value` (0 to 2**63 - 1) as LEB128: 7 bits a byte, lowest first, top bit: more."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"expected 0 to {MAX_VARINT}, got {value}")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at `at` and the place after it.

    Raises:
        PatchFormatError: cut off, above 2**63 - 1, or longer than it needs to be.
    """
    value = 0
    for position, byte in enumerate(data[at : at + 9]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if byte == 0 and position > 0:
                raise PatchFormatError("expected the shortest form of a number")
            return value, at + position + 1
    raise PatchFormatError("expected a complete number below 2**63")


def _read_digest(data: bytes, at: int) -> tuple[str, int]:
    digest = data[at : at + 32]
    if len(digest) != 32:
        raise PatchFormatError("expected a complete patch header")
    return digest.hex(), at + 32
