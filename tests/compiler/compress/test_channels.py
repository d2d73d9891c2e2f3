"""Dependency analysis: channels go everywhere or nowhere, and what is left computes the same."""

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from nets import BLOCKS, IMAGE, Encoder, Net, Recurrent, graph_of
from torch import fx, nn

from edgec_compiler.compress.constants import set_value, values_of
from edgec_compiler.compress.counting import macs, parameters
from edgec_compiler.compress.layers import trace
from edgec_compiler.compress.resizing import shrink
from edgec_compiler.compress.structured import prune_channels
from edgec_compiler.passes.graph import copied, observe


def _without(graph: fx.GraphModule, example: torch.Tensor, seed: int, share: float) -> int:
    """Take random channels out of `graph`, check it against one where they are zero; how many."""
    zeroed = copied(graph)
    observe(graph, (example,))
    found = trace(graph)
    channels, held = found.atoms.channels(), found.atoms.held()
    free = sorted(set(channels.tolist()) - held.keys())
    gone = set(random.Random(seed).sample(free, int(share * len(free))))
    for ids in found.atoms.cuts.values():  # a layer without channels runs nowhere
        own = channels[ids]
        if gone.issuperset(own.tolist()):
            gone.remove(own[0])
    kept = ~np.isin(channels, list(gone))
    for (name, axis), ids in found.atoms.cuts.items():
        shape = [1] * values_of(zeroed)[name].dim()
        shape[axis] = -1
        mask = torch.from_numpy(kept[ids]).float().reshape(shape)
        set_value(zeroed, name, values_of(zeroed)[name] * mask)

    shrink(found, kept)

    with torch.no_grad():
        torch.testing.assert_close(graph(example), zeroed(example), rtol=1e-4, atol=1e-4)
    return len(gone)


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a capture takes too long to shrink
)
@given(
    blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4),
    flat=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(blocks=["Depthwise", "Depthwise", "Concat"], flat=False, seed=964)
def test_a_net_without_channels_equals_the_net_with_those_channels_zero(
    blocks: list[str], flat: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    example = torch.randn(IMAGE)

    _without(graph_of(Net(blocks, flat=flat), example), example, seed, 0.4)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_a_block_can_lose_channels(block: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(IMAGE)
    graph = graph_of(Net([block]), example)
    before = parameters(graph), macs(graph)

    gone = _without(graph, example, 0, 0.4)
    observe(graph, (example,))

    assert gone > 1
    assert parameters(graph) < before[0]
    assert macs(graph) < before[1]


class _Halves(nn.Module):
    """Two layers side by side, tied to the halves of a third; the first is the weakest by far."""

    def __init__(self) -> None:
        super().__init__()
        self.weak, self.strong = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.both, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        with torch.no_grad():
            self.weak.weight *= 0.01
            self.both.weight[:8] *= 0.01
            self.last.weight[:, :8] *= 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.weak(x), self.strong(x)], 1) + self.both(x))


@pytest.mark.parametrize("ratio", [0.4, 0.6, 0.9])
def test_no_layer_loses_its_last_channels(ratio: float) -> None:
    torch.manual_seed(0)
    graph = graph_of(_Halves(), torch.randn(IMAGE))

    prune_channels(graph, (torch.randn(IMAGE),), ratio)

    assert values_of(graph)["weak.weight"].shape[0] >= 2
    assert graph(torch.randn(IMAGE)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_pruning_comes_near_the_requested_share_and_never_passes_it(ratio: float) -> None:
    torch.manual_seed(0)
    example = torch.randn(IMAGE)
    graph = graph_of(Net(["Residual", "Depthwise", "Concat"], width=32), example)
    before = parameters(graph)

    prune_channels(graph, (example,), ratio)

    gone = 1 - parameters(graph) / before
    assert 0.85 * ratio <= gone <= ratio


def test_channels_go_by_eights_where_there_are_many() -> None:
    torch.manual_seed(0)
    example = torch.randn(IMAGE)
    graph = graph_of(
        nn.Sequential(*(nn.Conv2d(3 if i == 0 else 64, 64, 1) for i in range(4))), example
    )

    prune_channels(graph, (example,), 0.5)

    kernels = [v for v in values_of(graph).values() if v.dim() == 4]
    assert kernels[-1].shape[0] == 64
    assert all(kernel.shape[0] % 8 == 0 for kernel in kernels)


def test_the_weakest_channels_go() -> None:
    torch.manual_seed(0)
    example = torch.randn(IMAGE)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    weak = [1, 5, 6, 12]
    with torch.no_grad():
        net[0].weight[weak] *= 0.01
        net[2].weight[:, weak] *= 0.01
    strong = [i for i in range(16) if i not in weak]
    wanted = net[0].weight[strong].detach().clone()
    graph = graph_of(net, example)

    prune_channels(graph, (example,), 0.25)

    assert torch.equal(values_of(graph)["0.weight"], wanted)


def test_the_classes_stay_and_it_is_told() -> None:
    example = torch.randn(IMAGE)
    graph = graph_of(Net(["Residual"]), example)

    told = prune_channels(graph, (example,), 0.5)

    assert graph(example).shape == (1, 4)
    assert told == ("1 layer kept whole: the output keeps its classes",)


def test_a_transformer_loses_hidden_units_of_its_mlp_alone() -> None:
    torch.manual_seed(0)
    example = torch.randn(1, 6, 8)
    graph = graph_of(Encoder(), example)
    shapes = {name: tuple(value.shape) for name, value in values_of(graph).items()}

    told = prune_channels(graph, (example,), 0.3)

    after = {name: tuple(value.shape) for name, value in values_of(graph).items()}
    assert after["layer.linear1.weight"][0] == after["layer.linear2.weight"][1] < 24
    assert {n for n in shapes if shapes[n] != after[n]} == {
        *("layer.linear1.weight", "layer.linear1.bias", "layer.linear2.weight"),
    }
    assert any("scaled_dot_product_attention" in line for line in told)


def test_a_recurrent_layer_keeps_its_size_and_the_layers_behind_it_do_not() -> None:
    torch.manual_seed(0)
    example = torch.randn(1, 5, 6)
    graph = graph_of(Recurrent(), example)

    told = prune_channels(graph, (example,), 0.1)

    after = {name: tuple(value.shape) for name, value in values_of(graph).items()}
    assert after["before.weight"] == (16, 6)
    assert after["gru.weight_hh_l0"] == (36, 12)
    assert after["hidden.weight"][0] < 20
    assert any("gru" in line for line in told)


class _Twice(nn.Module):
    """One layer at two places, once behind a pruned layer and once behind the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.shared(self.first(x)), self.shared(x)], 1))


def test_a_shared_layer_loses_only_what_all_its_readers_can_spare() -> None:
    torch.manual_seed(0)
    example = torch.randn(1, 6)
    graph = graph_of(_Twice(), example)

    gone = _without(graph, example, 0, 0.5)

    assert gone > 0
    assert values_of(graph)["first.weight"].shape == (6, 6)


class _Sorted(nn.Module):
    """An operator over channels that nothing here knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).sort(1).values)


def test_what_is_not_understood_keeps_its_channels_and_is_told() -> None:
    example = torch.randn(IMAGE)
    graph = graph_of(_Sorted(), example)
    before = parameters(graph)

    told = prune_channels(graph, (example,), 0.5)

    assert parameters(graph) == before
    assert "1 layer kept whole: sort reads its channels" in told
