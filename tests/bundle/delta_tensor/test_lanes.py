"""The entropy coder: what goes in comes out, in numpy and in C alike, in few bytes."""

import json

import numpy as np
import pytest
from delta_lots import LANE_GOLDENS, NONE, a_lot, a_mask, lane_digest
from delta_models import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec_bundle.delta.tensor import decoding, encoding, engine, numbers, tables
from edgec_bundle.delta.tensor.lanes import Coded
from edgec_bundle.delta.tensor.lot import TAPS, Lot
from edgec_bundle.delta.tensor.model import DTYPES
from edgec_bundle.errors import PatchFormatError

amounts = st.sampled_from([0.0, 1e-6, 1e-3, 0.05, 3.0])


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.integers(1, 700),
    st.sampled_from([1, 2, 5, 16, 64, 256]),
    st.integers(0, 1 << 20),
    amounts,
)
def test_what_lanes_write_they_read(
    dtype: str, count: int, lane_count: int, seed: int, amount: float
) -> None:
    lane_count = min(lane_count, count)
    pairs = [a_lot(dtype, count, seed + number, amount) for number in range(2)]
    lots, codes = [lot for lot, _ in pairs], [code for _, code in pairs]

    coded = encoding.encode_lots(lots, codes, lane_count)

    for made, code in zip(decoding.decode_lots(lots, coded), codes, strict=True):
        assert (made == code).all()
    assert coded[0] == encoding.encode_lots(lots[:1], codes[:1], lane_count)[0]
    assert (decoding.decode_lots(lots[1:], coded[1:])[0] == codes[1]).all()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_lots_of_any_size_are_read_side_by_side(dtype: str) -> None:
    sizes = [(700, 16, 0.05), (333, 5, 3.0), (900, 256, 1e-3), (1, 1, 0.0), (520, 16, 0.05)]
    lots, codes, coded = [], [], []
    for count, lane_count, amount in sizes:
        lot, code = a_lot(dtype, count, count, amount)
        lots.append(lot)
        codes.append(code)
        coded += encoding.encode_lots([lot], [code], lane_count)

    for made, code in zip(decoding.decode_lots(lots, coded), codes, strict=True):
        assert (made == code).all()


def test_masks_are_read_side_by_side() -> None:
    pairs = [(a_mask(1_000, 1), 8), (a_mask(999, 2), 3)]
    coded = [encoding.encode_lots([lot], [mask], lanes)[0] for (lot, mask), lanes in pairs]

    made = decoding.decode_lots([lot for (lot, _), _ in pairs], coded)

    for found, ((_, mask), _) in zip(made, pairs, strict=True):
        assert (found == mask).all()


def test_masks_are_written_and_read() -> None:
    lot, mask = a_mask(5_000, 1)

    (coded,) = encoding.encode_lots([lot], [mask], 8)

    assert (decoding.decode_lots([lot], [coded])[0] == mask).all()
    assert len(coded.words) < 5_000 / 8  # 450 are the entropy; 60 tables have to be learnt


@pytest.mark.skipif(not engine.is_compiled(), reason="edgec-accel is not installed: make accel")
@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("amount", [0.0, 1e-6, 1e-3, 0.05, 3.0])
def test_the_accelerator_writes_and_reads_the_same_bytes(dtype: str, amount: float) -> None:
    for count, lane_count in ((1, 1), (30, 2), (5_001, 16), (20_000, 256)):
        lot, codes = a_lot(dtype, count, count, amount)

        (coded,) = encoding.encode_lots([lot], [codes], lane_count)

        assert engine.encode_lots([lot], [codes], lane_count) == [coded]
        assert (engine.decode_lots([lot], [coded])[0] == codes).all()
    lot, mask = a_mask(3_000, 2)
    assert engine.encode_lots([lot], [mask], 4) == encoding.encode_lots([lot], [mask], 4)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["int8", "float32", "float16", "int32"]))
def test_damaged_lanes_end_and_agree(data: st.DataObject, dtype: str) -> None:
    lot, codes = a_lot(dtype, 400, 3, 0.05)
    (coded,) = encoding.encode_lots([lot], [codes], 4)
    parts = [bytearray(coded.states), bytearray(coded.words), bytearray(coded.bits)]
    part = parts[data.draw(st.integers(0, 2))]
    if part:
        part[data.draw(st.integers(0, len(part) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = Coded(4, *(bytes(one) for one in parts))

    outcomes = []
    for decode in (decoding.decode_lots, engine.decode_lots):
        try:
            outcomes.append(decode([lot], [damaged])[0].tolist())
        except PatchFormatError:
            outcomes.append("refused")

    assert outcomes[0] == outcomes[1]


def test_frequencies_are_whole_and_complete() -> None:
    for static in (False, True):
        counts = tables.fresh_counts(static)
        shares = tables.frequencies(counts)
        assert (shares >= 1).all()
        assert (shares.sum(-1) == 65536).all()
    tables.count(counts, np.zeros(9_000, np.int64), np.full(9_000, 40))
    assert tables.frequencies(counts)[0, 40] > 60_000
    assert counts[0].sum() < 9_000 * 32


def test_little_is_written_where_little_changed() -> None:
    lot, _ = a_lot("int8", 50_000, 9, 0.0)
    quiet = Lot(
        "int8",
        lot.reference << 8,
        lot.reference,
        lot.reference_fixed,
        np.zeros(50_000, np.int16),
        np.zeros((1, TAPS), np.int64),
        lot.starts,
        lot.activities * 0,
        lot.exponents,
        NONE,
    )
    codes = lot.reference.copy()
    codes[::100] = numbers.wrapped(codes[::100] + 1, 8)

    (coded,) = encoding.encode_lots([quiet], [codes], 4)

    entropy = 500 * np.log2(100) + 49_500 * np.log2(100 / 99) + 500  # bits, the signs included
    assert len(coded.words) * 8 < 1.1 * entropy


@pytest.mark.parametrize("name", LANE_GOLDENS)
def test_every_machine_writes_these_bytes(name: str) -> None:
    golden = json.loads((GOLDENS / "lanes.json").read_text())

    assert lane_digest(name) == golden["lots"][name]
