"""Lots of our own making, and the digests of what the lanes write of some."""

import numpy as np

from edgec_bundle.delta.tensor import engine, numbers, tables
from edgec_bundle.delta.tensor.lot import MASK, TAPS, Lot
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.digest import sha256_hex

NONE = np.empty(0, np.int64)


def a_lot(dtype: str, count: int, seed: int, amount: float) -> tuple[Lot, Ints]:
    """Return a lot with everything that lots can have, and codes that fit it more or less."""
    chance = np.random.default_rng(seed)
    bits = numbers.bits_of(dtype)
    even = count + count % 2
    reference = numbers.codes_of(weights_of(dtype, even, chance), dtype)[:count]
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


LANE_GOLDENS = ("int8-1", "uint8-2", "int4-3", "int16-4", "int32-5", "float16-6", "float32-7")
LANE_GOLDENS += ("bfloat16-8", "mask-9")


def lane_digest(name: str) -> str:
    """Return the digest of what the lanes write of a lot."""
    dtype, seed = name.split("-")
    lot, codes = a_mask(999, 9) if dtype == MASK else a_lot(dtype, 999, int(seed), 0.05)
    (coded,) = engine.encode_lots([lot], [codes], 8)
    return sha256_hex(b"|".join((coded.states, coded.words, coded.bits)))


def weights_of(dtype: str, count: int, chance: np.random.Generator) -> bytes:
    """Return the bytes of `count` elements, like weights."""
    values = chance.normal(size=count)
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    if dtype == "float16":
        return values.astype("<f2").tobytes()
    if dtype == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if dtype == "int4":
        return chance.integers(0, 256, -(-count // 2), dtype=np.uint8).tobytes()
    limit = {"int8": 40.0, "uint8": 40.0, "int16": 9000.0, "int32": 60_000.0}[dtype]
    return np.rint(values * limit).astype(np.int64).astype(f"<{_CODES[dtype]}").tobytes()


_CODES = {"int8": "i1", "uint8": "u1", "int16": "i2", "int32": "i4"}
