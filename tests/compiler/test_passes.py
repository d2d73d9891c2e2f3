"""Graph passes: each rewrites what it says, changes nothing else, and is caught when it lies."""

import math

import pytest
import torch
from torch import fx, nn

from edgec_compiler.errors import PassError
from edgec_compiler.passes import PASSES, Pass, capture, run_passes
from edgec_compiler.passes.graph import is_call


class Normed(nn.Module):
    """A layer, a normalisation with statistics of its own, and what follows."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        norm.running_mean = torch.randn(norm.num_features)
        norm.running_var = torch.rand(norm.num_features) + 0.1
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x)).relu()


class ErfGelu(nn.Module):
    """GELU as exporters write it out."""

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = 1 + torch.erf(x / math.sqrt(2))
        if self.order == 0:
            return x * inner * 0.5
        return 0.5 * (inner * x) if self.order == 1 else (x * 0.5) * inner


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, call: object) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x)  # type: ignore[operator]


def _targets(graph: fx.GraphModule) -> list[str]:
    return [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), (1, 3, 8, 8)),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), (1, 4, 8, 8)),
        (nn.Conv1d(3, 5, 3, padding=1), nn.BatchNorm1d(5), (1, 3, 16)),
        (nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), (1, 2, 4, 4, 4)),
        (nn.Linear(6, 5), nn.BatchNorm1d(5), (1, 6)),
    ],
)
def test_batch_norm_folds_into_the_layer_before_it(
    layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    module, x = Normed(layer, norm).eval(), torch.randn(shape)
    with torch.no_grad():
        wanted = module(x)

    graph = capture(module, (x,))
    changed = run_passes(graph, (x,))

    assert changed["fold-batch-norm"] == 1
    assert not any("batch_norm" in target for target in _targets(graph))
    torch.testing.assert_close(graph(x), wanted, rtol=1e-4, atol=1e-5)


def test_batch_norm_stays_where_its_layer_has_another_reader() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    x = torch.randn(1, 1, 2, 2)
    graph = capture(Shared().eval(), (x,))

    assert run_passes(graph, (x,))["fold-batch-norm"] == 0


@pytest.mark.parametrize("order", [0, 1, 2])
def test_gelu_is_recognised_in_any_order_of_its_factors(order: int) -> None:
    x = torch.randn(2, 5)
    graph = capture(ErfGelu(order), (x,))

    assert run_passes(graph, (x,))["fuse-gelu"] == 1
    assert _targets(graph) == ["aten.gelu.default"]


@pytest.mark.parametrize("keep", [True, False])
def test_a_spatial_mean_becomes_a_pool(keep: bool) -> None:
    x = torch.randn(1, 3, 4, 5)
    graph = capture(Function(lambda x: x.mean((2, 3), keepdim=keep) * 2), (x,))

    assert run_passes(graph, (x,))["mean-to-pool"] == 1
    assert _targets(graph)[0] == "aten.adaptive_avg_pool2d.default"


def test_identities_and_constants_disappear() -> None:
    class Wordy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.drop = nn.Parameter(torch.randn(4, 4)), nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.drop(x).reshape(x.shape).clone().contiguous()
            return x @ (self.weight.t() * 2)

    x = torch.randn(2, 4)
    graph = capture(Wordy().eval(), (x,))

    changed = run_passes(graph, (x,))

    assert _targets(graph) == ["aten.matmul.default"]
    assert changed["drop-identities"] >= 2
    assert changed["fold-constants"] >= 2


def _halve_first_multiplier(graph: fx.GraphModule) -> int:
    node = next(n for n in graph.graph.nodes if is_call(n, torch.ops.aten.mul.Tensor))
    node.args = (node.args[0], 0.5)
    return 1


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (Pass("halve", _halve_first_multiplier, lambda _: 0), "pass halve: changed an output by"),
        (Pass("lazy", lambda _: 0, lambda _: 3), "pass lazy: left 3 places"),
    ],
)
def test_a_pass_that_breaks_its_promise_is_named(lie: Pass, said: str) -> None:
    x = torch.ones(2)
    graph = capture(Function(lambda x: x * 3), (x,))

    with pytest.raises(PassError, match=said):
        run_passes(graph, (x,), (lie,))


def test_passes_leave_nothing_for_a_second_run() -> None:
    torch.manual_seed(0)
    module = Normed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(1, 3, 8, 8)
    graph = capture(module, (x,))
    run_passes(graph, (x,))

    assert set(run_passes(graph, (x,)).values()) == {0}
    assert len({one.name for one in PASSES}) == len(PASSES)
