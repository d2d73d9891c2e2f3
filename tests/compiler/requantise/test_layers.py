"""Layers as matrices: patches against convolutions, and which layer is which."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgec_compiler.requantise.layer import FloatLayer, QuantisedLayer, Signature, Window
from edgec_compiler.requantise.matching import counterparts


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1)),
        ((3, 2), (2, 1), (1, 2), (0, 2)),
        ((1, 1), (2, 2), (1, 1), (0, 0)),
    ],
)
def test_patches_times_weights_is_the_convolution(groups, kernel, stride, dilation, padding):
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(2, 6, 9, 8, generator=draw)
    weights = torch.randn(12, 6 // groups, *kernel, generator=draw)
    pads = (padding[0], padding[1], padding[0], padding[1])
    canonical = weights.permute(0, 2, 3, 1).reshape(groups, 12 // groups, -1).double().numpy()
    window = Window(kernel, stride, dilation, pads)
    layer = FloatLayer(canonical, None, "x", window, channels_first=True)

    rows = layer.rows(images.numpy(), 0)

    expected = functional.conv2d(
        images, weights, stride=stride, dilation=dilation, padding=padding, groups=groups
    )
    made = (rows @ canonical.transpose(0, 2, 1)).reshape(groups, 2, -1, 12 // groups)
    turned = made.transpose(1, 0, 3, 2).reshape(expected.shape)
    np.testing.assert_allclose(turned, expected.numpy(), atol=1e-4)


def test_same_padding_is_more_at_the_end():
    images = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4, 1)

    rows = Window((3, 3), (2, 2), pads=None).patches(images, 1, 0)

    assert rows.shape == (1, 4, 9)
    np.testing.assert_array_equal(rows[0, 0], [1, 2, 3, 5, 6, 7, 9, 10, 11])
    np.testing.assert_array_equal(rows[0, 3], [11, 12, 0, 15, 16, 0, 0, 0, 0])


def test_a_large_image_adds_a_bounded_number_of_patches():
    rows = Window((1, 1)).patches(np.zeros((1, 300, 300, 3), np.float32), 1, 5)

    assert 1000 <= rows.shape[1] <= 2100


def named(name, rows, op="conv"):
    q = np.ones((1, rows, 4), np.int8)
    scales = np.ones((1, rows), np.float32)
    signature = Signature(op, q.shape, (2, 2))
    return QuantisedLayer(name, signature, q, scales, False, np.float32(1), None)


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ("a1 b1", "b1 a1", {0: 1, 1: 0}),  # by name, though in another order
        ("a1 b2", "a1 b3", {0: 0}),  # another shape has no counterpart
        ("-1 -2 -3", "-1 -2 -3", {0: 0, 1: 1, 2: 2}),  # no names: by structure
        ("-1 -9 -2 -3", "-1 -2 -3", {0: 0, 2: 1, 3: 2}),  # an added layer shifts nothing
        ("-1 -3", "-1 -2 -3", {0: 0, 1: 2}),  # nor does a removed one
        ("x1 y2", "p1 q2", {0: 0, 1: 1}),  # exporters' counters are no names
        ("a1 a1 b2", "a1 b2", {0: 0, 2: 1}),  # a name twice is none
        ("a5", "a6", {}),
        ("? a1", "a1 ?", {1: 0}),  # layers that are not int8
    ],
)
def test_counterparts(new, old, expected):
    def parsed(text):
        return [None if w == "?" else named(w[0].strip("-"), int(w[1])) for w in text.split()]

    assert counterparts(parsed(new), parsed(old)) == expected
