"""Who runs the lanes: the compiled `edgec-accel` where it is installed, else numpy.

Both write and read the same bytes.
"""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import numpy as np

from edgec_bundle.delta.tensor import decoding, encoding
from edgec_bundle.delta.tensor.lanes import Coded
from edgec_bundle.delta.tensor.lot import MASK, Lot
from edgec_bundle.delta.tensor.model import DTYPES
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.errors import PatchFormatError

_VERSION = 1  # of the format, as edgec-accel knows it
_MASK_KIND = 8


def _load() -> ModuleType | None:
    try:
        edgec_accel = import_module("edgec_accel")
    except ImportError:
        return None
    return edgec_accel if edgec_accel.VERSION == _VERSION else None


_INSTALLED = _load()
_ACCEL = _INSTALLED


def is_compiled() -> bool:
    """Return whether `edgec-accel` runs the lanes."""
    return _ACCEL is not None


def use_compiled(wanted: bool) -> None:
    """Let `edgec-accel` run the lanes, where it is installed, or numpy: to compare them."""
    global _ACCEL
    _ACCEL = _INSTALLED if wanted else None


def encode_lots(lots: Sequence[Lot], codes: Sequence[Ints], lane_count: int) -> list[Coded]:
    """Return what the lanes write; see `encoding.encode_lots`."""
    if _ACCEL is None:
        return encoding.encode_lots(lots, codes, lane_count)
    return [
        Coded(lane_count, *_ACCEL.encode(*_arguments(lot, lane_count), _words(one)))
        for lot, one in zip(lots, codes, strict=True)
    ]


def decode_lots(lots: Sequence[Lot], coded: Sequence[Coded]) -> list[Ints]:
    """Return what the lanes read; see `decoding.decode_lots`."""
    if _ACCEL is None:
        return decoding.decode_lots(lots, coded)
    found = []
    for lot, one in zip(lots, coded, strict=True):
        data = _ACCEL.decode(*_arguments(lot, one.lanes), one.states, one.words, one.bits)
        if data is None:
            raise PatchFormatError(
                "the patch is damaged: its coded elements end in the wrong place"
            )
        found.append(np.frombuffer(data, np.int64))
    return found


def _arguments(lot: Lot, lane_count: int) -> tuple[object, ...]:
    kind = _MASK_KIND if lot.dtype == MASK else DTYPES[lot.dtype][0]
    return (
        kind,
        lane_count,
        _words(lot.base),
        _words(lot.reference),
        _words(lot.reference_fixed),
        np.ascontiguousarray(lot.rows, np.int16),
        _words(lot.coefficients),
        _words(lot.starts),
        _words(lot.activities),
        _words(lot.exponents),
        _words(lot.contexts),
    )


def _words(values: Ints) -> Ints:
    return np.ascontiguousarray(values, np.int64)
