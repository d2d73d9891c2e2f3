"""Any two files round-trip, models or not; models in few bytes, whatever happened to them."""

from pathlib import Path

import numpy as np
import pytest
from delta_models import DIGITS, GOLDENS, Weights, applied, onnx_file, random_data, two_models
from golden_pairs import pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec_bundle.delta import FORMATS, PatchHeader, device_formats, make_patch, make_patch_as
from edgec_bundle.delta.bsdiff import BSDIFF4
from edgec_bundle.delta.tensor import PLANES_ONLY, TENSOR, blocks, engine
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import PatchLimitError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "delta"  # real pairs, where they are
NEW_FORMATS = ("tensor", "tensor-planes", "zstd")


@pytest.mark.parametrize("form", NEW_FORMATS)
@settings(max_examples=60)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_two_byte_strings_make_a_patch(form: str, old: bytes, new: bytes) -> None:
    assert applied(make_patch_as(form, old, new).data, old, new) == new


@pytest.mark.parametrize("form", ["tensor", "tensor-planes"])
@settings(max_examples=60)
@given(two_models())
def test_any_two_models_make_a_patch(form: str, models: tuple[bytes, bytes]) -> None:
    old, new = models

    assert applied(make_patch_as(form, old, new).data, old, new) == new


@settings(max_examples=30)
@given(two_models(), st.data())
def test_damaged_models_make_a_patch_too(models: tuple[bytes, bytes], data: st.DataObject) -> None:
    old, new = (bytearray(one) for one in models)
    for octets in (old, new):
        for _ in range(data.draw(st.integers(0, 6))):
            octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))

    patch = make_patch_as("tensor", bytes(old), bytes(new))

    assert applied(patch.data, bytes(old), bytes(new)) == bytes(new)


def conv(shape: tuple[int, ...], seed: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def weights(values: np.ndarray, dtype: str) -> Weights:
    return Weights("w", dtype, values.shape, values.tobytes())


def quantised(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values * 30), -127, 127).astype(np.int8)


def size_of(form: str, old: bytes, new: bytes) -> int:
    patch = make_patch_as(form, old, new)
    assert applied(patch.data, old, new) == new
    return len(patch.data)


def test_small_changes_of_many_weights_cost_little() -> None:
    base = conv((64, 64, 3, 3), 1)
    moved = base * (1 + 0.02 * conv((64, 1, 1, 1), 2)) + 0.05 * conv(base.shape, 3)
    old, new = (onnx_file([weights(quantised(one), "int8")]) for one in (base, moved))

    size = size_of("tensor", old, new)

    assert size < 0.4 * len(BSDIFF4.encode(old, new, 1 << 30))
    assert size < size_of("tensor-planes", old, new)


def test_what_a_kernel_has_in_common_is_said_once() -> None:
    base = conv((32, 32, 3, 3), 4)
    alone = base + 0.1 * conv(base.shape, 5)
    together = base + 0.1 * conv((32, 32, 1, 1), 5)
    for axes in ((0, 1, 2, 3), (0, 2, 3, 1)):  # as ONNX and as TFLite have it
        old, apart, joint = (
            onnx_file([weights(quantised(one).transpose(axes).copy(), "int8")])
            for one in (base, alone, together)
        )

        assert size_of("tensor", old, joint) < 0.75 * size_of("tensor", old, apart)


@pytest.mark.parametrize(("dtype", "form"), [("float32", "<f4"), ("float16", "<f2")])
def test_a_channel_that_was_rescaled_costs_a_few_bytes(dtype: str, form: str) -> None:
    base = conv((64, 300), 6)
    moved = base.astype(form) * (1 + 0.1 * conv((64, 1), 7)).astype(form)
    old, new = onnx_file([weights(base.astype(form), dtype)]), onnx_file([weights(moved, dtype)])

    assert size_of("tensor", old, new) < 0.45 * len(BSDIFF4.encode(old, new, 1 << 30))


def test_zeros_of_a_pruned_tensor_are_told_by_the_old_weights() -> None:
    base = conv((40, 500), 8)
    pruned = np.where(np.abs(base) < 0.67, np.copysign(0, base), base).astype("<f4")
    signs = np.where((np.abs(base) < 0.67), np.copysign(np.float32(0), conv(base.shape, 9)), base)
    old = onnx_file([weights(base, "float32")])

    kept = size_of("tensor", old, onnx_file([weights(pruned, "float32")]))
    random = size_of("tensor", old, onnx_file([weights(signs.astype("<f4"), "float32")]))

    assert kept < 1_000  # of 80 000
    assert random < kept + 40 * 500 / 8  # one bit for each new sign


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_zeros_in_rows_of_different_scale_are_no_reason_to_begin_anew(dtype: str) -> None:
    base = conv((64, 128), 24) * np.exp(0.5 * conv((64, 1), 25))
    old = np.rint(base / np.abs(base).max(1, keepdims=True) * 127).astype(np.int16)
    new = np.where(np.abs(base) < np.quantile(np.abs(base), 0.7), 0, old)
    zero = 128 if dtype == "uint8" else 0
    files = [onnx_file([weights((one + zero).astype(dtype), dtype)]) for one in (old, new)]

    assert size_of("tensor", *files) < 0.13 * len(files[1])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_few_weights_that_moved_far_cost_no_more_than_their_entropy(dtype: str) -> None:
    chance = np.random.default_rng(22)
    old = quantised(conv((100, 100), 23)).astype(np.int16)
    moves = chance.integers(-25, 26, old.shape) * (chance.random(old.shape) < 0.2)
    moved = np.clip(old + moves, -127, 127)
    zero = 128 if dtype == "uint8" else 0
    files = [onnx_file([weights((one + zero).astype(dtype), dtype)]) for one in (old, moved)]
    _, counts = np.unique(moved - old, return_counts=True)
    entropy = -float((counts * np.log2(counts / counts.sum())).sum()) / 8

    assert size_of("tensor", *files) < 1.03 * entropy + 300


def test_a_scale_that_follows_from_another_is_not_sent() -> None:
    chance = np.random.default_rng(10)
    single = np.float32(0.0173)

    def model(seed: int, is_product: bool) -> bytes:
        scales = np.random.default_rng(seed).random(2_000, dtype=np.float32)
        other = single * scales if is_product else chance.random(2_000, dtype=np.float32)
        tensors = [
            Weights("s", "float32", (1,), single.tobytes()),
            Weights("w_scale", "float32", (2_000,), scales.tobytes()),
            Weights("b_scale", "float32", (2_000,), other.astype("<f4").tobytes()),
        ]
        return onnx_file(tensors if seed % 2 else tensors[::-1])

    for first, second in ((1, 3), (2, 4)):  # either may come first in the file
        derived = size_of("tensor", model(first, True), model(second, True))
        free = size_of("tensor", model(first, False), model(second, False))
        assert derived < 0.7 * free


def test_scales_that_follow_from_unchanged_ones_are_not_sent() -> None:
    scales = np.random.default_rng(12).random(2_000, dtype=np.float32)

    def model(single: np.float32, turned: bool) -> bytes:
        tensors = [
            Weights("s", "float32", (1,), single.tobytes()),
            Weights("w_scale", "float32", (2_000,), scales.tobytes()),
            Weights("b_scale", "float32", (2_000,), (single * scales).tobytes()),
        ]
        return onnx_file(tensors[::-1] if turned else tensors)

    for turned in (False, True):  # either may come first in the file
        models = [model(np.float32(single), turned) for single in (0.0173, 0.0219)]
        assert size_of("tensor", *models) < 200


def test_a_number_that_others_follow_from_may_end_in_bytes_of_the_old_file() -> None:
    scales = np.random.default_rng(13).random((2, 2_000), dtype=np.float32)

    def model(which: int) -> bytes:
        single = np.float32((0.0173, 0.0219)[which])  # alike in the highest byte
        name = "the name of what follows it " * 4
        tensors = [
            Weights("s", "float32", (1,), single.tobytes()),
            Weights(name, "float32", (2_000,), scales[which].tobytes()),
            Weights("b_scale", "float32", (2_000,), (single * scales[which]).tobytes()),
        ]
        return onnx_file(tensors)

    lone = [onnx_file([Weights("w", "float32", (2_000,), one.tobytes())]) for one in scales]

    assert size_of("tensor", model(0), model(1)) < size_of("tensor", *lone) + 200


def test_a_bias_is_told_by_the_change_of_its_scale() -> None:
    chance = np.random.default_rng(11)
    scales = chance.random((2, 3_000), dtype=np.float32) * np.float32(0.02) + np.float32(0.1)
    real = 1000 * chance.normal(size=3_000)

    def model(which: int) -> list[Weights]:
        bias = np.rint(real / scales[which]).astype("<i4").tobytes()
        return [Weights("b", "int32", (3_000,), bias, scales[which].tobytes())]

    lone = [[Weights("b", "int32", (3_000,), one.data)] for which in (0, 1) for one in model(which)]
    with_scales = size_of("tensor", onnx_file(model(0)), onnx_file(model(1)))
    without = size_of("tensor", onnx_file(lone[0]), onnx_file(lone[1]))

    assert with_scales < without + 4 * 3_000 - 3_000  # the scales themselves take up to 4 bytes


def test_renamed_and_reordered_tensors_are_found() -> None:
    layers = [conv((32, 100 + number), number) for number in range(6)]
    old = onnx_file(
        [Weights(f"Conv_{n}", "float32", w.shape, w.tobytes()) for n, w in enumerate(layers)]
    )
    renamed = [
        Weights(f"Conv_{n + 7}", "float32", w.shape, w.tobytes()) for n, w in enumerate(layers)
    ]

    assert size_of("tensor", old, onnx_file(renamed)) < 300
    assert size_of("tensor", old, onnx_file(renamed[::-1])) < 500


def test_rows_that_went_elsewhere_are_found() -> None:
    chance = np.random.default_rng(29)
    gates = chance.normal(size=(4, 60, 80)).astype("<f4")
    tuned_gates = gates + (0.001 * chance.normal(size=gates.shape)).astype("<f4")
    moved = tuned_gates[[0, 2, 3, 1]]  # as exporters differ in the order of a recurrent layer's

    def file(*parts: np.ndarray) -> bytes:
        named = enumerate(one.reshape(-1, 80) for one in parts)
        tensors = [Weights(f"w{at}", "float32", one.shape, one.tobytes()) for at, one in named]
        return onnx_file(tensors)

    usual = size_of("tensor", file(gates), file(tuned_gates))

    assert size_of("tensor", file(gates), file(moved)) < usual + 500
    assert size_of("tensor", file(gates), file(moved[:1], moved[1:])) < usual + 500
    assert size_of("tensor", file(*gates), file(moved)) < usual + 500


def test_a_layer_put_between_others_hides_none_of_them() -> None:
    layers = [conv((64, 64), seed) for seed in range(5)]
    moved = [layers[0], conv((64, 64), 9), *(w + 0.001 * conv(w.shape, 10) for w in layers[1:])]
    old, new = (
        onnx_file([Weights(f"w{n}", "float32", w.shape, w.tobytes()) for n, w in enumerate(some)])
        for some in (layers, [one.astype("<f4") for one in moved])
    )

    assert size_of("tensor", old, new) < 4 * 64 * 64 * (1 * 0.95 + 4 * 0.65)


def test_unsigned_weights_lie_around_their_middle() -> None:
    old, new = (quantised(conv((50, 50), seed)).astype(np.int16) for seed in (18, 19))
    signed = [onnx_file([weights(one.astype(np.int8), "int8")]) for one in (old, new)]
    unsigned = [onnx_file([weights((one + 128).astype("u1"), "uint8")]) for one in (old, new)]

    assert size_of("tensor", *unsigned) < 1.01 * size_of("tensor", *signed)


def test_two_weights_in_a_byte_are_told_one_by_one() -> None:
    chance = np.random.default_rng(26)
    old = chance.integers(1, 15, 12_000)
    new = old + chance.integers(-1, 2, old.shape) * (chance.random(old.shape) < 0.3)
    packed = [(one[::2] | one[1::2] << 4).astype("u1").reshape(60, 100) for one in (old, new)]
    files = [onnx_file([weights(one, "uint8")]) for one in packed]
    entropy = len(old) * (0.8 * np.log2(1 / 0.8) + 0.2 * np.log2(1 / 0.1)) / 8

    assert size_of("tensor", *files) < 1.05 * entropy + 150


def test_blocks_of_4_bit_weights_that_all_changed_their_sign_cost_little() -> None:
    chance = np.random.default_rng(27)
    old = np.clip(np.rint(8 + 3 * chance.normal(size=(400, 32))), 1, 15).astype(np.int64)
    turned = chance.random(len(old)) < 0.15
    new = np.where(turned[:, None], 16 - old, old)
    new += (chance.random(old.shape) < 0.05) & (new < 15)
    packed = [(one[:, ::2] | one[:, 1::2] << 4).astype("u1") for one in (old, new)]
    files = [onnx_file([weights(one, "uint8")]) for one in packed]
    entropy = old.size * (0.95 * np.log2(1 / 0.95) + 0.05 * np.log2(1 / 0.05)) / 8

    assert size_of("tensor", *files) < 1.05 * entropy + len(old) / 8 + 300


def test_many_unsigned_weights_that_moved_are_no_halves() -> None:
    chance = np.random.default_rng(28)
    old = np.clip(np.rint(128 + 25 * chance.normal(size=(60, 200))), 0, 255)
    new = np.clip(np.rint(old + 3 * chance.normal(size=old.shape)), 0, 255)
    files = [onnx_file([weights(one.astype("u1"), "uint8")]) for one in (old, new)]
    bits = np.log2(3 * np.sqrt(2 * np.pi * np.e))  # of a normal distribution

    assert size_of("tensor", *files) < 1.05 * old.size * bits / 8 + 200


def test_rows_that_repeat_in_a_large_tensor_are_said_once() -> None:
    old = quantised(conv((300, 300), 20))
    new = np.tile(quantised(conv((30, 300), 21)), (10, 1))
    files = [onnx_file([weights(one, "int8")]) for one in (old, new)]

    assert size_of("tensor", *files) < 0.12 * len(files[1])


def test_signalling_nans_pass_in_silence() -> None:  # warnings are errors here
    loud = np.array([0x7F800001, 0xFFA00001, *range(14)], "<u4")
    files = [
        onnx_file([Weights(name, "float32", (16,), (loud ^ flip).tobytes()) for name in ("a", "b")])
        for flip in (0, 2)
    ]

    assert applied(make_patch_as("tensor", *files).data, *files) == files[1]


def test_a_layer_with_more_classes_starts_from_the_old_rows() -> None:
    base = conv((10, 400), 12)
    more = np.concatenate((base + 0.01 * conv((10, 400), 13), conv((2, 400), 14)))
    old, new = (onnx_file([weights(one.astype("<f4"), "float32")]) for one in (base, more))

    assert size_of("tensor", old, new) < 0.8 * len(BSDIFF4.encode(old, new, 1 << 30))


def test_strangers_cost_hardly_more_than_themselves() -> None:
    for dtype in ("float32", "float16", "int8"):
        chance = np.random.default_rng(15)
        files = [
            onnx_file([Weights("w", dtype, (200, 100), random_data(dtype, 20_000, chance))])
            for _ in range(2)
        ]

        assert size_of("tensor", *files) < 1.01 * len(files[1])


def test_large_tensors_are_cut_and_large_copies_too() -> None:
    chance = np.random.default_rng(16)
    base = chance.integers(-100, 100, (3, 700_000)).astype(np.int8)
    moved = base.copy()
    moved[:, ::50] += 1
    same = Weights("same", "int8", (9_000_000,), bytes(9_000_000))
    old, new = (onnx_file([same, weights(one, "int8")]) for one in (base, moved))

    size = size_of("tensor-planes", old, new)

    assert size < 42_000


def test_much_that_is_no_model_is_compared_wherever_it_went() -> None:
    chance = np.random.default_rng(17)
    old = chance.bytes(3_000_000) + bytes(600_000) + b"ab" * 100_000
    new = bytearray(old[1_000_000:] + chance.bytes(77) + old[:1_000_000])
    new[700_000:700_000] = b"added"
    new[0] ^= 1
    new[1_234_567:1_234_577] = bytes(10)

    assert size_of("tensor", old, bytes(new)) < 77 + 250


@settings(max_examples=60)
@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 90), st.binary(max_size=40))),
)
def test_blocks_make_the_new_bytes_whole(some: bytes, pieces: list[tuple[int, int, bytes]]) -> None:
    old = some + bytes(range(100))
    new = b"".join(old[at : at + size] + added for at, size, added in pieces)

    made = b""
    for place, size, source in blocks.aligned(old, new):
        assert place == len(made)
        assert size > 0
        assert source is None or 0 <= source <= len(old) - size
        made += new[place : place + size]

    assert made == new


def test_the_smallest_of_all_formats_is_taken() -> None:
    old, new = ((DIGITS / f"{version}.onnx").read_bytes() for version in ("1.0.0", "1.1.0"))

    patch = make_patch(old, new)

    assert patch is not None
    sizes = {form: len(make_patch_as(form, old, new).data) for form in FORMATS}
    assert len(patch.data) == min(sizes.values()) == sizes["tensor"]
    assert make_patch(old, new, formats=("bsdiff4", "zstd")) is not None
    planes = make_patch(old, new, formats=("tensor-planes",))
    assert planes is not None
    assert planes.format == "tensor-planes"


def test_a_device_says_what_fits_it() -> None:
    assert {"bsdiff4", "tensor-planes", "zstd"} <= set(device_formats()) <= set(FORMATS)
    assert ("tensor" in device_formats()) == engine.is_compiled()


def test_zstd_is_for_small_files() -> None:
    large = bytes((4 << 20) + 1)

    for old, new in ((large, b""), (b"", large)):
        with pytest.raises(PatchLimitError):
            make_patch_as("zstd", old, new)


@pytest.mark.parametrize("name", sorted(pairs()))
@pytest.mark.parametrize("form", ["tensor", "tensor-planes"])
def test_golden_patches_are_read_for_ever_and_still_written(name: str, form: str) -> None:
    old, new, body = ((GOLDENS / f"{name}.{end}").read_bytes() for end in ("old", "new", form))
    header = PatchHeader(form, sha256_hex(old), len(old), sha256_hex(new), len(new))
    assert (old, new) == pairs()[name]

    assert applied(header.to_bytes() + body, old, new) == new
    encode = (TENSOR if form == "tensor" else PLANES_ONLY).encode
    assert len(encode(old, new, 1 << 30)) <= 1.02 * len(body)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the lab's pairs are not at hand")
@pytest.mark.parametrize(
    ("kinds", "form", "most"),
    [
        (("ftlight", "ftmed"), "int8", 0.55),
        (("ftmed",), "int8", 0.36),
        (("ftlight", "ftmed"), "fp16", 0.45),
        (("ftlight", "ftmed"), "fp32", 0.65),
        (("prune",), "int8", 0.40),
        (("head",), "int8", 1.0),
        (("meta",), "int8", 1.0),
        (("unrel",), "fp16", 1.0),
    ],
)
def test_real_updates_meet_their_goals(kinds: tuple[str, ...], form: str, most: float) -> None:
    old = (SHARED / f"cnn_base_{form}.onnx").read_bytes()
    logs = []
    for kind in kinds:
        new = (SHARED / f"cnn_{kind}_{form}.onnx").read_bytes()
        sizes = [len(one.encode(old, new, 1 << 30)) for one in (TENSOR, BSDIFF4)]
        logs.append(np.log(sizes[0] / sizes[1]))

    assert np.exp(np.mean(logs)) <= most
