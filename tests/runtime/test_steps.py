"""Laws of the steps, and what their parameters may not be."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edgec_bundle.manifest import TensorSpec
from edgec_runtime import InputError, SpecError, StepError, UnsupportedError
from edgec_runtime.processing import Postprocessing, Preprocessing

FLOATS = hnp.arrays(
    np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


def pre(value: np.ndarray, *steps: Mapping[str, Any]) -> np.ndarray:
    spec = TensorSpec("x", value.dtype.name, (-1,) * value.ndim)
    return Preprocessing.parse([spec], steps).run({"x": value})["x"]


def post(value: np.ndarray, out: TensorSpec, *steps: Mapping[str, Any]) -> np.ndarray:
    return Postprocessing.parse([out], steps).run({"x": value})["x"]


@given(values=FLOATS, scale=st.floats(0.001, 10), zero_point=st.integers(-128, 127))
def test_dequantised_is_within_half_a_step_wherever_it_does_not_saturate(
    values: np.ndarray, scale: float, zero_point: int
) -> None:
    parameters = {"scale": scale, "zero_point": zero_point}

    q = pre(values, {"op": "quantize", "dtype": "int8", **parameters})
    back = post(q, TensorSpec("x", "float32", (-1, 4)), {"op": "dequantize", **parameters})

    inside = (q > -128) & (q < 127)
    # Half a step, and the rounding of float32 along the way.
    bound = scale / 2 + np.abs(values) * 4e-7 + scale * 128 * 4e-7
    assert (np.abs(back - values) <= bound)[inside].all()


@given(values=hnp.arrays(np.uint8, (2, 3, 4, 5)))
def test_a_layout_and_its_reverse_change_nothing(values: np.ndarray) -> None:
    there = {"op": "layout", "from": "NHWC", "to": "NCHW"}
    back = {"op": "layout", "from": "NCHW", "to": "NHWC"}

    np.testing.assert_array_equal(pre(values, there, back), values)


@given(values=FLOATS)
def test_softmax_is_a_distribution_with_the_same_winner(values: np.ndarray) -> None:
    shares = post(values, TensorSpec("x", "float32", (-1, 4)), {"op": "softmax"})

    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares >= 0).all()
    # exp may round two different numbers to one
    picked = shares[np.arange(3), values.argmax(axis=1)]
    np.testing.assert_array_equal(picked, shares.max(axis=1))


@given(values=hnp.arrays(np.int16, (2, 17)), size=st.integers(1, 17), hop=st.integers(1, 20))
def test_padded_windows_hold_every_sample(values: np.ndarray, size: int, hop: int) -> None:
    hop = min(hop, size)

    frames = pre(values, {"op": "window", "size": size, "hop": hop, "pad": True})

    overlapped = np.zeros((2, (frames.shape[1] - 1) * hop + size), np.int16)
    for i in range(frames.shape[1]):
        overlapped[:, i * hop : i * hop + size] = frames[:, i]
    np.testing.assert_array_equal(overlapped[:, :17], values)
    assert not overlapped[:, 17:].any()


@given(values=FLOATS, k=st.integers(1, 4))
def test_top_k_agrees_with_argmax_and_sorts(values: np.ndarray, k: int) -> None:
    outputs = [TensorSpec("x", "float32", (-1, k)), TensorSpec("best", "int64", (-1, k))]
    steps = [{"op": "top_k", "k": k, "output": "x", "indices": "best"}]

    got = Postprocessing.parse(outputs, steps).run({"x": values})

    np.testing.assert_array_equal(got["best"][:, 0], values.argmax(axis=1))
    np.testing.assert_array_equal(got["x"], -np.sort(-values, axis=1)[:, :k])


@given(
    values=hnp.arrays(hnp.integer_dtypes() | hnp.unsigned_integer_dtypes(), (2, 3)),
    target=st.sampled_from(
        ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
    ),
)
def test_a_cast_keeps_every_value_or_refuses(values: np.ndarray, target: str) -> None:
    values = values.astype(values.dtype.newbyteorder("="))
    limits = np.iinfo(target)
    fits = all(limits.min <= int(v) <= limits.max for v in values.flat)

    if not fits:
        with pytest.raises(StepError, match="does not fit"):
            pre(values, {"op": "cast", "dtype": target})
        return
    cast = pre(values, {"op": "cast", "dtype": target})

    assert [int(v) for v in cast.flat] == [int(v) for v in values.flat]


@pytest.mark.parametrize(
    "value", [2.0**63, -(2.0**64), 3e38], ids=["2**63", "-2**64", "float32 max"]
)
def test_a_float_beyond_int64_is_refused(value: float) -> None:
    with pytest.raises(StepError, match="does not fit int64"):
        pre(np.array([[value]], np.float32), {"op": "cast", "dtype": "int64"})


BAD_STEPS = {
    "unknown parameter": ({"op": "scale", "men": 1}, "'men': unknown; known here"),
    "missing parameter": ({"op": "crop"}, "'size': missing; expected 2 integers"),
    "not a number": ({"op": "scale", "mean": "1"}, "'mean': expected a finite number, got '1'"),
    "true is no number": ({"op": "scale", "mean": True}, "expected a finite number, got True"),
    "std zero": ({"op": "scale", "std": [1, 0]}, "'std': expected numbers above 0, got 0.0"),
    "no numbers": ({"op": "scale", "mean": []}, "expected 1 to 65536 numbers, got 0"),
    "zero point outside": (
        {"op": "quantize", "scale": 1, "zero_point": 128, "dtype": "int8"},
        "'zero_point': expected an integer in -128..127, got 128",
    ),
    "scale zero": ({"op": "quantize", "scale": 0, "dtype": "int8"}, "expected a number above 0"),
    "unknown filter": ({"op": "resize", "size": 3, "filter": "cubic"}, "expected one of nearest,"),
    "size zero": ({"op": "resize", "size": [0, 3]}, "expected an integer in 1..16384, got 0"),
    "size of three": ({"op": "resize", "size": [1, 2, 3]}, "expected 2 integers"),
    "layout moves the batch": ({"op": "layout", "from": "NHWC", "to": "HNWC"}, "N first"),
    "layout loses an axis": ({"op": "layout", "from": "NHWC", "to": "NHW"}, "letters of 'NHWC'"),
    "category twice": ({"op": "one_hot", "categories": [1, 1]}, "no number twice"),
    "lengths differ": ({"op": "standardize", "mean": [1, 2], "std": 1}, "of one length"),
    "cast to text": ({"op": "cast", "dtype": "str"}, "'dtype': expected one of bool"),
    "too many pixels": ({"op": "decode_image", "max_pixels": 10**9}, "in 1..40000000"),
    "another input": ({"op": "scale", "input": "y"}, "names 'y', not which input it acts on: x"),
}


@pytest.mark.parametrize(("step", "message"), BAD_STEPS.values(), ids=BAD_STEPS)
def test_a_malformed_step_is_refused_by_name(step: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Preprocessing.parse([TensorSpec("x", "float32", (-1, 2))], [step])

    assert message in str(caught.value)
    assert "preprocessing step 1" in str(caught.value)


def test_a_step_that_nobody_knows_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="preprocessing step 2 'sharpen'"):
        Preprocessing.parse(
            [TensorSpec("x", "float32", (-1, 2))], [{"op": "scale"}, {"op": "sharpen"}]
        )


def test_a_step_of_the_other_stage_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="preprocessing step 1 'softmax'"):
        Preprocessing.parse([TensorSpec("x", "float32", (-1, 2))], [{"op": "softmax"}])


def test_with_two_inputs_a_step_must_say_which() -> None:
    specs = [TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "float32", (-1, 2))]

    with pytest.raises(SpecError, match=r"step 1 \(scale\)|step 1 does not say which input"):
        Preprocessing.parse(specs, [{"op": "scale", "std": 2}])


def test_decode_image_must_come_first() -> None:
    with pytest.raises(SpecError, match="decode_image must be the input's first step"):
        Preprocessing.parse(
            [TensorSpec("x", "uint8", (-1, -1, -1, 3))],
            [{"op": "cast", "dtype": "uint8"}, {"op": "decode_image"}],
        )


def test_images_that_stay_different_in_size_name_the_odd_one() -> None:
    def png(width: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", (width, 2)).save(file, "PNG")
        return file.getvalue()

    steps = [{"op": "decode_image", "mode": "L"}]
    chain = Preprocessing.parse([TensorSpec("photo", "bytes", (-1,))], steps)

    with pytest.raises(InputError, match="input 'photo', row 2: expected \\[2, 3, 1\\]"):
        chain.run({"photo": [png(3), png(3), png(4)]})


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 11, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    tagged = {"exif": exif.tobytes()} if kind in ("PNG", "JPEG", "WEBP") else {}
    Image.fromarray(pixels).save(file, kind, **tagged)
    return file.getvalue()


IMAGES = {kind: encoded(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")}


@pytest.mark.parametrize("kind", IMAGES)
@given(data=st.data())
def test_a_damaged_image_is_decoded_or_refused_and_nothing_else(
    kind: str, data: st.DataObject
) -> None:
    damaged = bytearray(IMAGES[kind])
    reach = min(len(damaged), data.draw(st.sampled_from([40, 120, 10_000]))) - 1
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, reach))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    chain = Preprocessing.parse(
        [TensorSpec("photo", "bytes", (-1,))], [{"op": "decode_image", "max_pixels": 1_000_000}]
    )

    outcome: Any
    try:
        outcome = chain.run({"photo": [bytes(damaged)]})["photo"]
    except StepError as error:
        outcome = error

    if isinstance(outcome, StepError):
        assert (outcome.tensor, outcome.row, outcome.step) == ("photo", 0, "decode_image")
    else:
        assert (outcome.dtype, outcome.ndim, outcome.shape[3]) == (np.uint8, 4, 3)
