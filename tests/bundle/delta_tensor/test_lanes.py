"""The entropy coder: what goes in comes out, in numpy and in C alike, in few bytes."""

import json

import numpy as np
import pytest
from delta_models import GOLDENS, random_data
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec_bundle.delta.tensor import decoding, encoding, engine, numbers, tables
from edgec_bundle.delta.tensor.lanes import Coded
from edgec_bundle.delta.tensor.lot import MASK, TAPS, Lot
from edgec_bundle.delta.tensor.model import DTYPES
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import PatchFormatError

NONE = np.empty(0, np.int64)


def a_lot(dtype: str, count: int, seed: int, amount: float) -> tuple[Lot, Ints]:
    """Return a lot with everything that lots can have, and codes that fit it more or less."""
    chance = np.random.default_rng(seed)
    bits = numbers.bits_of(dtype)
    even = count + count % 2
    reference = numbers.codes_of(random_data(dtype, even, chance), dtype)[:count]
    moved = reference + np.rint(amount * (1 << (bits - 2)) * chance.normal(size=count))
    codes = numbers.wrapped(moved.astype(np.int64), bits)
    cuts = chance.choice(np.arange(1, count), min(3, count - 1), replace=False)
    starts = np.concatenate(([0], np.sort(cuts))).astype(np.int64)
    exponents = chance.integers(20, 38, len(starts))
    each = exponents[np.searchsorted(starts, np.arange(count), "right") - 1]
    fixed = numbers.fixed_of(reference, dtype, each)
    base = np.where(chance.random(count) < 0.5, fixed, fixed * 65_000 >> 16)
    coefficients = chance.integers(-40, 40, (9, TAPS))
    coefficients[0] = 0
    rows = (np.arange(count) % 9).astype(np.int16)
    activities = chance.integers(0, 96, len(starts))
    lot = Lot(
        dtype, base, reference, fixed, rows, coefficients, starts, activities, exponents, NONE
    )
    return lot, codes


def a_mask(count: int, seed: int) -> tuple[Lot, Ints]:
    chance = np.random.default_rng(seed)
    contexts = chance.integers(0, tables.CONTEXTS, count)
    numbers_ = (chance.random(count) * 60 < contexts).astype(np.int64) * 2
    no_rows = np.empty(0, np.int16)
    lot = Lot(MASK, NONE, NONE, NONE, no_rows, NONE, NONE, NONE, NONE, contexts)
    return lot, numbers_


amounts = st.sampled_from([0.0, 1e-6, 1e-3, 0.05, 3.0])


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=60, deadline=None)
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


LANE_GOLDENS = ("int8-1", "uint8-2", "int4-3", "int16-4", "int32-5", "float16-6", "float32-7")
LANE_GOLDENS += ("bfloat16-8", "mask-9")


def lane_digest(name: str) -> str:
    """Return the digest of what the lanes write of a lot."""
    dtype, seed = name.split("-")
    lot, codes = a_mask(999, 9) if dtype == MASK else a_lot(dtype, 999, int(seed), 0.05)
    (coded,) = encoding.encode_lots([lot], [codes], 8)
    return sha256_hex(b"|".join((coded.states, coded.words, coded.bits)))


@pytest.mark.parametrize("name", LANE_GOLDENS)
def test_every_machine_writes_these_bytes(name: str) -> None:
    golden = json.loads((GOLDENS / "lanes.json").read_text())

    assert lane_digest(name) == golden["lots"][name]
