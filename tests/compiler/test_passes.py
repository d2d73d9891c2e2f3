"""Graph passes: each rewrites what it says, changes nothing else, and is caught when it lies."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from edgec_compiler.errors import PassError
from edgec_compiler.passes import PASSES, TFLITE_PASSES, Pass, capture, run_passes
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

    assert run_passes(graph, (x,))["reduce-by-pool"] == 1
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

    assert _targets(graph) == ["aten.linear.default"]
    assert changed["drop-identities"] >= 2
    assert changed["fold-constants"] >= 2


def test_a_channel_last_block_as_keras_writes_it_becomes_one_convolution() -> None:
    kernel, mean, scale, shift = (torch.randn(3, 3, 4, 6), *torch.rand(3, 6))

    def block(x: torch.Tensor) -> torch.Tensor:
        weights = kernel.permute(3, 2, 0, 1)
        x = torch.conv2d(x.permute(0, 3, 1, 2), weights).permute(0, 2, 3, 1)
        return torch.add(torch.multiply(torch.subtract(x, mean), scale), shift)

    x = torch.randn(1, 8, 8, 4)
    graph = capture(Function(block), (x,))

    run_passes(graph, (x,))

    found = [target for target in _targets(graph) if "permute" not in target]
    assert found == ["aten.conv2d.default"]
    # litert-torch reads some weights as if their values lay in the order of their axes
    assert all(value.is_contiguous() for value in graph.state_dict().values() if value.dim() == 4)


def _repeated_by_expanding(x: torch.Tensor, times: int, axis: int) -> torch.Tensor:
    """As Keras writes it."""
    axis, sizes = axis % x.dim(), [-1] * (x.dim() + 1)
    sizes[axis + 1] = times
    shape = list(x.shape)
    shape[axis] *= times
    return x.unsqueeze(axis + 1).expand(sizes).reshape(shape)


@pytest.mark.parametrize(
    ("repeats", "expected"),
    [
        ([(2, 1), (3, 2)], ["aten.upsample_nearest2d.vec"]),
        ([(2, -1), (2, -2)], ["aten.upsample_nearest2d.vec"]),
        ([(2, 1)], ["aten.upsample_nearest2d.vec"]),
        ([(2, 3), (2, 1)], ["aten.upsample_nearest2d.vec"] * 2),
        ([(2, 0)], ["aten.repeat_interleave.self_int"]),
    ],
)
@pytest.mark.parametrize("written", [torch.repeat_interleave, _repeated_by_expanding])
def test_repeated_rows_and_columns_become_a_resize(
    written: Callable[..., torch.Tensor], repeats: list[tuple[int, int]], expected: list[str]
) -> None:
    def enlarge(x: torch.Tensor) -> torch.Tensor:
        for times, axis in repeats:
            x = written(x, times, axis)
        return x

    x = torch.randn(1, 3, 4, 5)
    graph = capture(Function(enlarge), (x,))

    run_passes(graph, (x,))

    found = [target for target in _targets(graph) if "permute" not in target]
    assert found == expected or (
        expected[0].startswith("aten.repeat") and "aten.expand" in found[1]
    )


def _halve_first_multiplier(graph: fx.GraphModule) -> int:
    node = next(n for n in graph.graph.nodes if is_call(n, torch.ops.aten.mul.Tensor))
    node.args = (node.args[0], 0.5)
    return 1


def _drop_relu(graph: fx.GraphModule) -> int:
    node = next(n for n in graph.graph.nodes if is_call(n, torch.ops.aten.relu.default))
    node.replace_all_uses_with(node.args[0])
    return 1


def _stumble(graph: fx.GraphModule) -> int:
    raise KeyError("relu_7")


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (Pass("positive", _drop_relu, lambda _: 0), "pass positive: changed .* below zero"),
        (Pass("stumble", _stumble, lambda _: 0), "pass stumble: failed: KeyError: 'relu_7'"),
        (Pass("halve", _halve_first_multiplier, lambda _: 0), "pass halve: changed an output by"),
        (Pass("lazy", lambda _: 0, lambda _: 3), "pass lazy: left 3 places"),
    ],
)
def test_a_pass_that_breaks_its_promise_is_named(lie: Pass, said: str) -> None:
    x = torch.tensor([0.2, 0.9])
    graph = capture(Function(lambda x: x.relu() * 3), (x,))

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


def _clone_then_zero(x: torch.Tensor) -> torch.Tensor:
    changed = x.clone()
    changed[:, 0] = 0
    return x + changed


def _zeros_then_filled(x: torch.Tensor) -> torch.Tensor:
    wide = torch.zeros(4, 8)
    wide[:, :4] = x
    return wide * 2


def _neutral_then_added(x: torch.Tensor) -> torch.Tensor:
    other = x * 1
    other.add_(3)
    return x * other


def _seen_by_two(x: torch.Tensor) -> torch.Tensor:
    before = x - 0.5
    after = before.relu_()
    return before + after


@pytest.mark.parametrize(
    "write", [_clone_then_zero, _zeros_then_filled, _neutral_then_added, _seen_by_two]
)
def test_what_a_model_writes_in_place_is_kept(
    write: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return write(self.norm(x))

    module, x = Writing().eval(), torch.rand(4, 4)
    graph = capture(module, (x,))

    run_passes(graph, (x,))

    negative = torch.randn(4, 4)
    assert torch.allclose(graph(negative), module(negative), atol=1e-5)
    assert "aten.batch_norm.default" in {str(node.target) for node in graph.graph.nodes}


def test_an_activation_in_place_right_behind_its_layer_is_an_ordinary_one() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))

    graph = capture(module.eval(), (torch.rand(1, 4),))

    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert calls == ["aten.linear.default", "aten.relu.default"]


def _column_off(x: torch.Tensor) -> torch.Tensor:
    above = torch.exp(x - x.amax(1))  # broadcast along the other axis than it was taken from
    return above / above.sum(1, keepdim=True)


def _all_off(x: torch.Tensor) -> torch.Tensor:
    above = torch.exp(x - x.amax())
    return above / above.sum(1, keepdim=True)


class _Then(nn.Module):
    def __init__(self, *layers: nn.Module, times: torch.Tensor) -> None:
        super().__init__()
        self.layers, self.times = nn.Sequential(*layers), nn.Parameter(times)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * self.times  # type: ignore[no-any-return]


class _Of(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)), (2, 6, 8)),
        (nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(6)), (2, 6, 8)),
        (_Then(nn.Conv2d(4, 4, 3, padding=1), times=torch.rand(1, 4, 1)), (4, 4, 4)),
        (nn.Sequential(nn.ZeroPad2d((1, 1, 0, 0)), nn.Conv2d(4, 4, 3)), (4, 4, 4)),
        (_Of(_column_off), (4, 4)),
        (_Of(_all_off), (4, 4)),
        (_Of(lambda x: (x * 9).int().amax((2, 3))), (1, 2, 4, 4)),
    ],
)
def test_axes_that_happen_to_be_of_one_size_are_not_confused(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.normal_(layer.weight)
    x = torch.randn(shape)
    graph = capture(module.eval(), (x,))

    run_passes(graph, (x,))

    assert torch.allclose(graph(x).float(), module(x).float(), atol=1e-5)


@pytest.mark.parametrize("way", [lambda x: 1 - x, lambda x: torch.arange(5.0).view(5, 1, 1) - x])
def test_a_constant_minus_a_layer_is_written_so_that_converters_keep_its_sign(
    way: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    module, x = nn.Sequential(nn.Conv2d(3, 5, 1), _Of(way)).eval(), torch.rand(1, 3, 4, 4)
    graph = capture(module, (x,))

    changed = run_passes(graph, (x,), (*PASSES, *TFLITE_PASSES))

    assert changed["turn-differences"] == 1
    assert torch.allclose(graph(x), module(x), atol=1e-5)
    assert "sub" not in " ".join(str(node.target) for node in graph.graph.nodes)
