"""Masks and clusters: laws of single weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec_compiler.compress.clustering import cluster, k_means
from edgec_compiler.compress.sparsity import by_magnitude, two_of_four
from edgec_compiler.compress.weights import Masked, Matrix, OnGrid

FLOATS = st.floats(-4, 4, width=32)
MATRICES = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=FLOATS
).map(torch.from_numpy)


def _matrix(name: str = "w", *, grouped: bool = False) -> Matrix:
    return Matrix(name, 0, 1, grouped)


@settings(max_examples=60)
@given(one=MATRICES, other=MATRICES, ratio=st.floats(0.01, 0.99))
def test_masks_remove_the_asked_share_and_within_a_layer_the_smallest(
    one: torch.Tensor, other: torch.Tensor, ratio: float
) -> None:
    values = {"a": one, "b": other}

    masks = by_magnitude([_matrix("a"), _matrix("b")], values, ratio)

    zeros = sum(int((mask == 0).sum()) for mask in masks.values())
    assert zeros == int(ratio * (one.numel() + other.numel()))
    for name, mask in masks.items():
        gone, kept = values[name][mask == 0].abs(), values[name][mask == 1].abs()
        assert not len(gone) or not len(kept) or gone.max() <= kept.min()


@settings(max_examples=40)
@given(weight=hnp.arrays(np.float32, (3, 8, 2), elements=FLOATS).map(torch.from_numpy))
def test_two_of_four_neighbours_along_the_input_stay(weight: torch.Tensor) -> None:
    masks, left = two_of_four([_matrix()], {"w": weight})

    assert left == ()
    groups = masks["w"].movedim(1, -1).reshape(3, 2, 2, 4)
    sizes = weight.abs().movedim(1, -1).reshape(3, 2, 2, 4)
    assert (groups.sum(-1) == 2).all()
    kept = torch.where(groups == 1, sizes, torch.inf).amin(-1)
    gone = torch.where(groups == 0, sizes, 0).amax(-1)
    assert (gone <= kept).all()


def test_two_of_four_leaves_what_tensor_cores_cannot_take() -> None:
    values = {
        "odd": torch.ones(2, 6),
        "depthwise": torch.ones(8, 1, 3, 3),
        "fits": torch.ones(2, 8),
    }
    matrices = [_matrix("odd"), _matrix("depthwise", grouped=True), _matrix("fits")]

    masks, left = two_of_four(matrices, values)

    assert set(masks) == {"fits"}
    assert left == ("odd", "depthwise")


@settings(max_examples=60)
@given(
    values=hnp.arrays(np.float64, st.integers(1, 200), elements=FLOATS),
    count=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_centroids_are_few_ascending_and_reproducible(
    values: np.ndarray, count: int, seed: int
) -> None:
    found = k_means(values, count, seed)

    assert 1 <= len(found) <= count
    assert (np.diff(found) >= 0).all()
    assert values.min() <= found[0] <= found[-1] <= values.max() + 1e-12
    assert np.array_equal(found, k_means(values, count, seed))
    if len(np.unique(values)) <= count:
        assert np.array_equal(found, np.unique(values))


def test_k_means_finds_clumps() -> None:
    draw = np.random.default_rng(0)
    clumps = np.array([-3.0, -1.0, 0.5, 2.0])
    values = (clumps[:, None] + draw.normal(0, 0.02, (4, 50))).ravel()

    found = k_means(values, 4, 0)

    assert np.allclose(found, clumps, atol=0.05)


@pytest.mark.parametrize("axis", [None, 0])
def test_a_clustered_weight_has_few_values_and_keeps_its_zeros(axis: int | None) -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 40) * torch.rand(12, 1)
    weight[torch.rand(12, 40) < 0.3] = 0

    form = cluster(weight, 16, 0, axis, keep_zeros=True)

    made = form().detach()
    assert (made[weight == 0] == 0).all()
    assert len(torch.unique(form.centroids)) <= 16
    if axis is None:
        assert len(torch.unique(made)) <= 16
    assert (made - weight).abs().max() < 0.5 * weight.abs().max()


def test_a_weight_clustered_per_channel_has_few_integers_in_all() -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 40) * torch.rand(12, 1)

    made = cluster(weight, 16, 0, 0, keep_zeros=False)().detach()

    peak = made.abs().amax(1, keepdim=True)
    assert torch.equal(peak, weight.abs().amax(1, keepdim=True))  # the scales are those of before
    assert len(torch.unique((127 * made / peak).round())) <= 16


def test_gradients_move_centroids_and_never_the_pinned_ones() -> None:
    weight = torch.tensor([[0.0, 1.0, 0.4, 0.5, -1.0, -0.3]])
    form = cluster(weight, 16, 0, 0, keep_zeros=True)
    optimiser = torch.optim.SGD(form.parameters(), 0.1)

    form().sum().backward()
    optimiser.step()

    made = form().detach()
    assert torch.equal(made == 0, weight == 0)
    assert torch.equal(made.abs() == 1, weight.abs() == 1)
    assert made[0, 2] != weight[0, 2]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_on_the_grid_is_integers_times_its_largest_value(bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 30)
    weight[2] = 0
    form = OnGrid(Masked(weight), bits, 0)

    made = form()

    made.sum().backward()
    scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    integers = torch.where(scale > 0, made.detach() / scale, 0)
    assert torch.allclose(integers, integers.round(), atol=1e-4)
    assert torch.equal(form.inner.value.grad, torch.ones_like(weight))  # straight through


def test_a_masked_weight_learns_where_it_is_not_zero() -> None:
    mask = torch.tensor([1.0, 0.0, 1.0])
    form = Masked(torch.tensor([1.0, 2.0, 3.0]), mask)

    form().sum().backward()

    assert torch.equal(form.value.grad, mask)
    assert torch.equal(form().detach(), torch.tensor([1.0, 0.0, 3.0]))
