"""Tensors as the Open Inference Protocol writes them: as JSON numbers or as little-endian bytes.

A null among JSON's floats is a missing value, NaN: whether a model takes such is its own affair.
Reading is strict, since the bytes are a stranger's: a number that the type cannot hold, text where
numbers belong, rows of unequal length, a byte too few or too many are refused, and the error names
the input.
"""

import math
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgec_agent.errors import InferenceError, InvalidInputError

Array = npt.NDArray[np.generic]

_NUMPY = {
    "BOOL": "bool",
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_NAMES = {numpy_name: name for name, numpy_name in _NUMPY.items()} | {"bytes": "BYTES"}
DATATYPES = (*_NUMPY, "BYTES")


def datatype_of(dtype: str) -> str:
    """Return the protocol's name of a manifest's or numpy's `dtype`: "FP32" for "float32"."""
    return _NAMES.get(dtype, "BYTES")


def from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> Array:
    """Return input `name` from JSON `data`: flat or nested lists, of numbers, booleans or text.

    Returns:
        an array of `shape`; for BYTES of dtype object, holding bytes.

    Raises:
        InvalidInputError: the data is not what `datatype` and `shape` say.
    """
    if not isinstance(data, list):
        raise InvalidInputError(name, f"expected data as a list, got {type(data).__name__}")
    if datatype == "BYTES":
        return _shaped(name, _texts(name, data), shape)
    wanted = np.dtype(_NUMPY[datatype])
    found = _numbers(data, exact=wanted.kind in "iu" and wanted.itemsize == 8)
    if found.ndim > 1 and found.shape != tuple(shape):
        raise InvalidInputError(name, f"expected data of shape {list(shape)} or flat")
    if data and not found.size:
        raise InvalidInputError(name, f"expected data of shape {list(shape)} or flat")
    if not data:
        return _shaped(name, np.empty(0, wanted), shape)
    if found.dtype.kind == "O":
        found = _exactly(found, wanted)
    if found.dtype.kind not in {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[wanted.kind]:
        raise InvalidInputError(name, f"expected data of {datatype}, all of it and nothing else")
    return _shaped(name, _cast(name, datatype, found, wanted), shape)


def _numbers(data: list[object], *, exact: bool) -> Array:
    """Return `data` as numpy sees it; with `exact`, Python's own integers. Ragged: empty."""
    try:
        return np.array(data, object if exact else None)
    except (ValueError, OverflowError, RecursionError):
        return np.empty(0, object)


def _exactly(found: Array, wanted: np.dtype[np.generic]) -> Array:
    """Return Python's numbers in `found` as `wanted`, a null as NaN; `found` if that cannot be."""
    kinds = {type(value) for value in found.ravel().tolist()}
    fits = kinds <= {int} if wanted.kind in "iu" else kinds <= {int, float, type(None)}
    if not fits or wanted.kind == "b":
        return found
    try:
        return found.astype(wanted if wanted.kind in "iu" else np.float64)
    except OverflowError:
        return found


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> Array:
    """Return input `name` from its raw little-endian bytes, row-major; BYTES as for `from_json`.

    Raises:
        InvalidInputError: the bytes are not what `datatype` and `shape` say.
    """
    if datatype == "BYTES":
        return _shaped(name, _unpack(name, raw, math.prod(shape)), shape)
    dtype = np.dtype(_NUMPY[datatype]).newbyteorder("<")
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidInputError(
            name, f"expected {expected} bytes for {datatype} {list(shape)}, got {len(raw)}"
        )
    if datatype == "BOOL" and len(raw) and np.frombuffer(raw, np.uint8).max() > 1:
        raise InvalidInputError(name, "expected booleans as bytes of 0 and 1")
    array = np.frombuffer(raw, dtype)
    if not array.flags.aligned or not array.dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))  # runtimes read it through plain pointers
    return array.reshape(shape)


def to_json(name: str, array: Array) -> list[object]:
    """Return output `array` flat, row-major. Raises InferenceError for NaN and infinity."""
    if array.dtype.kind in "OSU":
        return [_text(value).decode("utf-8", "replace") for value in array.ravel().tolist()]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InferenceError(
            f"output '{name}' holds NaN or infinity, which JSON cannot carry: ask for binary_data"
        )
    flat: list[object] = array.ravel().tolist()
    return flat


def to_bytes(array: Array) -> bytes:
    """Return output `array` as raw little-endian bytes, row-major; text each with its length."""
    if array.dtype.kind in "OSU":
        texts = [_text(value) for value in array.ravel().tolist()]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _text(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _shaped(name: str, flat: Array, shape: Sequence[int]) -> Array:
    if flat.size != math.prod(shape):
        raise InvalidInputError(
            name, f"expected {math.prod(shape)} elements for shape {list(shape)}, got {flat.size}"
        )
    return flat.reshape(shape)


def _cast(name: str, datatype: str, found: Array, wanted: np.dtype[np.generic]) -> Array:
    """Return `found` as `wanted`, if it holds every value."""
    if wanted.kind in "iu":
        bounds = np.iinfo(wanted.name)
        if int(found.min()) < bounds.min or int(found.max()) > bounds.max:
            raise InvalidInputError(
                name, f"expected {datatype}, {bounds.min} to {bounds.max}, got a number beyond"
            )
        return found.astype(wanted)
    with np.errstate(over="ignore"):
        cast = found.astype(wanted)
    if wanted.kind == "f" and np.isinf(cast).any():
        raise InvalidInputError(name, f"expected {datatype}, got a number beyond its range")
    return cast


def _texts(name: str, data: list[object]) -> Array:
    flat: list[bytes] = []
    pending: list[object] = list(reversed(data))
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(reversed(value))
        elif isinstance(value, str):
            try:
                flat.append(value.encode())
            except UnicodeEncodeError as error:
                raise InvalidInputError(name, "expected text without lone surrogates") from error
        else:
            raise InvalidInputError(name, f"expected data of text, got {type(value).__name__}")
    return _objects(flat)


def _unpack(name: str, raw: memoryview, count: int) -> Array:
    """Return `count` elements, each written as a 4-byte length and that many bytes."""
    if count * 4 > len(raw):
        raise InvalidInputError(name, f"expected {count} elements of BYTES, got fewer")
    elements: list[bytes] = []
    offset = 0
    for _ in range(count):
        if offset + 4 > len(raw):
            raise InvalidInputError(name, f"expected {count} elements of BYTES, got fewer")
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if length > len(raw) - offset:
            raise InvalidInputError(name, f"element {len(elements)} ends beyond the data")
        elements.append(bytes(raw[offset : offset + length]))
        offset += length
    if offset != len(raw):
        raise InvalidInputError(name, f"expected {count} elements of BYTES, got more bytes")
    return _objects(elements)


def _objects(elements: list[bytes]) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array
