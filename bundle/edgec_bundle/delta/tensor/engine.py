"""Who runs the lanes: the compiled `edgec-accel` where it is installed, else numpy.

Both write and read the same bytes.
"""

from collections.abc import Sequence

from edgec_bundle.delta.tensor import decoding, encoding
from edgec_bundle.delta.tensor.lanes import Coded
from edgec_bundle.delta.tensor.lot import Lot
from edgec_bundle.delta.tensor.numbers import Ints


def encode_lots(lots: Sequence[Lot], codes: Sequence[Ints], lane_count: int) -> list[Coded]:
    """Return what the lanes write; see `encoding.encode_lots`."""
    return encoding.encode_lots(lots, codes, lane_count)


def decode_lots(lots: Sequence[Lot], coded: Sequence[Coded]) -> list[Ints]:
    """Return what the lanes read; see `decoding.decode_lots`."""
    return decoding.decode_lots(lots, coded)


def is_compiled() -> bool:
    """Return whether `edgec-accel` runs the lanes."""
    return False
