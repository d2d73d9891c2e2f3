"""One layer: its grid, its bias, and what happens to the error."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgec_compiler.requantise.layer import FloatLayer, Layer, QuantisedLayer, Signature
from edgec_compiler.requantise.moments import Curvature, Moments
from edgec_compiler.requantise.rework import Terms, rework, snapped

seeds = st.integers(0, 2**32 - 1)
INPUT_SCALE = np.float32(0.02)


def quantised(weights, bias, scales=None):
    """Return a layer rounded as an ordinary quantiser rounds it."""
    if scales is None:
        scales = (np.abs(weights).max(axis=2) / 127).astype(np.float32)
    steps = scales.astype(np.float64)[:, :, None]
    q = np.clip(np.rint(weights / steps), -127, 127).astype(np.int8)
    made = np.rint(bias / (INPUT_SCALE * scales)).astype(np.int64)
    signature = Signature("dense", weights.shape, (1, 1))
    return QuantisedLayer("w", signature, q, scales, False, INPUT_SCALE, made)


def update(seed, size, groups=1, rows=6, columns=20):
    """Return (layer, inputs): weights that moved by `size` of their spread."""
    draw = np.random.default_rng(seed)
    old = draw.normal(0, 0.1, (groups, rows, columns))
    bias = draw.normal(0, 0.1, (groups, rows))
    new = old + draw.normal(0, 0.1 * size, old.shape)
    moved = bias + draw.normal(0, 0.1 * size, bias.shape)
    inputs = np.maximum(draw.normal(0.3, 1, (groups, 200, columns)), 0)
    exact = FloatLayer(new, moved, "x", None)
    return Layer(0, exact, quantised(new, moved), quantised(old, bias)), inputs


def curvature_of(layer, inputs):
    moments = Moments.of(layer.exact)
    for sample in np.array_split(inputs.astype(np.float32), 5, axis=1):
        moments.add(sample)
    return moments.curvature(biased=True)


def output(layer, inputs, q, scales, bias):
    weights = q * scales.astype(np.float64)[:, :, None]
    return inputs @ weights.transpose(0, 2, 1) + (bias * (INPUT_SCALE * scales))[:, None]


def output_error(layer, inputs, values):
    exact = inputs @ layer.exact.weights.transpose(0, 2, 1) + layer.exact.bias[:, None]
    made = output(layer, inputs, values.q, values.scales, values.bias)
    return float(np.square(made - exact).mean())


def changes(layer, values):
    return np.count_nonzero(values.q != layer.deployed.q)


def at(price):
    return Terms(np.ones((1, 1)), price)


@given(seeds)
def test_price_zero_without_sweeps_is_the_ordinary_layer(seed):
    layer, inputs = update(seed, 0.05)

    values = rework(layer, curvature_of(layer, inputs), at(0.0), sweeps=0)

    near = np.abs(values.q.astype(int) - layer.ordinary.q)
    assert near.max() <= 1  # a tie, told apart by single precision
    assert np.count_nonzero(near) <= 1
    np.testing.assert_array_equal(values.scales, layer.ordinary.scales)
    np.testing.assert_array_equal(values.bias, layer.ordinary.bias)


@given(seeds)
def test_price_zero_is_nearer_to_the_float_outputs_than_ordinary_rounding(seed):
    layer, inputs = update(seed, 0.05)

    values = rework(layer, curvature_of(layer, inputs), at(0.0))

    plain = layer.ordinary
    before = np.square(
        output(layer, inputs, plain.q, plain.scales, plain.bias)
        - (inputs @ layer.exact.weights.transpose(0, 2, 1) + layer.exact.bias[:, None])
    ).mean()
    assert output_error(layer, inputs, values) <= before * 1.02


@given(seeds)
def test_at_an_infinite_price_weights_grid_and_bias_stay(seed):
    layer, inputs = update(seed, 0.02)

    values = rework(layer, curvature_of(layer, inputs), at(1e30))

    limit = layer.ordinary.limit
    np.testing.assert_array_equal(values.q, np.clip(layer.deployed.q, -limit, limit))
    np.testing.assert_array_equal(values.scales, layer.deployed.scales)
    np.testing.assert_array_equal(values.bias, layer.deployed.bias)


@given(seeds)
def test_an_unchanged_layer_stays_to_the_byte_at_any_price(seed):
    layer, inputs = update(seed, 0.0)
    curvature = curvature_of(layer, inputs)

    for price in (1.0, 1e30):
        values = rework(layer, curvature, at(price))
        np.testing.assert_array_equal(values.q, layer.deployed.q)
        np.testing.assert_array_equal(values.scales, layer.deployed.scales)


def test_dearer_changes_are_fewer_and_cost_error():
    layer, inputs = update(3, 0.05, rows=40, columns=80)
    curvature = curvature_of(layer, inputs)

    made = [rework(layer, curvature, at(price)) for price in (0.0, 1e-6, 1e-5, 1e-4)]

    counts = [changes(layer, one) for one in made]
    errors = [output_error(layer, inputs, one) for one in made]
    assert counts == sorted(counts, reverse=True)
    assert errors[0] < errors[-1]
    assert counts[-1] < 0.3 * counts[0]


def test_a_rescaled_channel_keeps_all_its_integers():
    layer, inputs = update(4, 0.0)
    exact = FloatLayer(layer.exact.weights * 1.37, layer.exact.bias, "x", None)
    moved = Layer(0, exact, quantised(exact.weights, exact.bias), layer.deployed)

    values = rework(moved, curvature_of(moved, inputs), at(1e-5))

    assert changes(moved, values) == 0
    np.testing.assert_allclose(values.scales, layer.deployed.scales * 1.37, rtol=0.01)


@given(
    st.lists(st.floats(2**-20, 1024, width=32), min_size=1, max_size=20),
    st.floats(0.2, 5),
    st.booleans(),
)
def test_snapped_scales_are_near_and_end_like_the_deployed_ones(scales, ratio, up):
    wanted = np.array(scales, np.float32)
    deployed = (wanted * np.float32(ratio)).astype(np.float32)

    made = snapped(wanted, deployed, up=up)

    ends = [one.view(np.uint32) & 0xFFFF for one in (made, deployed)]
    np.testing.assert_array_equal(*ends)
    np.testing.assert_allclose(made, wanted, rtol=2**-6)
    if up:
        assert np.all(made >= wanted)


@given(seeds, st.integers(1, 9))
def test_moments_do_not_depend_on_how_samples_are_cut(seed, pieces):
    layer, inputs = update(seed, 0.05)
    rows = inputs.astype(np.float32)
    moments = Moments.of(layer.exact)

    for part in np.array_split(rows, pieces, axis=1):
        moments.add(part)

    found = moments.curvature(biased=True)
    direct = np.cov(rows[0].T.astype(np.float64), bias=True)
    direct += 0.01 * np.diag(direct).mean() * np.eye(len(direct))
    np.testing.assert_allclose(found.hessian[0], direct, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.mean[0], rows[0].mean(0), rtol=1e-5, atol=1e-6)


def test_the_loss_of_an_error_is_the_mean_squared_output_error_after_the_bias():
    layer, inputs = update(6, 0.05)
    hessian = np.cov(inputs[0].T, bias=True)[None]
    curvature = Curvature(hessian.astype(np.float32), inputs.mean(1).astype(np.float32))
    error = np.random.default_rng(0).normal(0, 1, layer.exact.weights.shape)

    found = curvature.loss(error)

    shifted = inputs @ error.transpose(0, 2, 1)
    shifted -= shifted.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.square(shifted).mean(axis=1), rtol=1e-3)
