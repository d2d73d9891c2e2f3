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
from edgec_bundle.delta.tensor import PLANES_ONLY, TENSOR, engine
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import PatchLimitError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "delta"  # real pairs, where they are
NEW_FORMATS = ("tensor", "tensor-planes", "zstd")


@pytest.mark.parametrize("form", NEW_FORMATS)
@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_two_byte_strings_make_a_patch(form: str, old: bytes, new: bytes) -> None:
    assert applied(make_patch_as(form, old, new).data, old, new) == new


@pytest.mark.parametrize("form", ["tensor", "tensor-planes"])
@settings(deadline=None, max_examples=60)
@given(two_models())
def test_any_two_models_make_a_patch(form: str, models: tuple[bytes, bytes]) -> None:
    old, new = models

    assert applied(make_patch_as(form, old, new).data, old, new) == new


@settings(deadline=None, max_examples=30)
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
