"""A captured graph as a module that can be trained: any batch, weights in any form of `weights`.

A captured graph has a fixed batch, mostly 1. `Trainable` maps it over the rows of any batch
(torch.vmap), so that constants in reshapes stay right; recurrent operators are run by their parts,
since they have no batching rule as a whole. Where one is missing (LSTM of torch), it takes row
after row.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._decomp import get_decompositions

from edgec_compiler.composites import recurrent
from edgec_compiler.composites.library import PARTS
from edgec_compiler.compress.constants import set_value
from edgec_compiler.compress.weights import Weights

Ranges = dict[str, tuple[float, float]]  # of values, by the name of the node that makes them
_LEVELS = 255  # steps of 8 bits
_A = torch.ops.aten
# What converters fuse into the operator before: only the result is stored, and so quantised.
_FUSED = (
    _A.relu.default,
    _A.relu_.default,
    _A.relu6.default,
    _A.clamp.default,
    _A.hardtanh.default,
)
# Torch's own parts of an LSTM are one operator again, which has no batching rule either.
_PARTS: dict[Any, Any] = {
    **get_decompositions([_A.gru.input, _A.rnn_tanh.input, _A.rnn_relu.input]),
    **{one: PARTS[one] for one in (recurrent.GRU, recurrent.LSTM, recurrent.RNN)},
}


class Trainable(nn.Module):
    """`graph` for inputs [B, ...] with B a multiple of its own batch; one output or a tuple.

    Its parameters are those of `weights`; other constants of the graph do not change.
    """

    def __init__(self, graph: fx.GraphModule, weights: Weights) -> None:
        super().__init__()
        object.__setattr__(self, "graph", graph)  # not a submodule: its constants do not learn
        self.graph: fx.GraphModule
        self.names = tuple(weights)
        self.weights = nn.ModuleList(weights.values())
        self.ranges: Ranges = {}  # of activations that are rounded to 8 bits
        self.rounds = False  # whether training shall do that
        self._one_by_one = False

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return the outputs for a batch."""
        own = [int(node.meta["shape"][0]) for node in _placeholders(self.graph)]
        rows = [x.reshape(-1, n, *x.shape[1:]) for x, n in zip(inputs, own, strict=True)]
        made = self._map(_Runner(self.graph, self.values(), self.ranges), rows)
        outputs = tuple(value.flatten(0, 1) for value in made)
        return outputs[0] if len(outputs) == 1 else outputs

    def values(self) -> dict[str, torch.Tensor]:
        """Return the weights by the name of the constant that they stand for."""
        return {name: form() for name, form in zip(self.names, self.weights, strict=True)}

    def forms(self) -> dict[str, nn.Module]:
        """Return the weights' modules by the name of the constant that they stand for."""
        return dict(zip(self.names, self.weights, strict=True))

    def bake(self) -> fx.GraphModule:
        """Write the weights into the graph and return it."""
        with torch.no_grad():
            for name, value in self.values().items():
                set_value(self.graph, name, value)
        return self.graph

    def observe(self, rows: Iterator[tuple[torch.Tensor, ...]]) -> None:
        """Learn the ranges of activations from single rows, and round to them from now on."""
        runner = _Recorder(self.graph, {n: v.detach() for n, v in self.values().items()}, {})
        with torch.no_grad():
            for row in rows:
                runner.run(*row)
        self.ranges = runner.found

    def _map(self, runner: "_Runner", rows: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        if not self._one_by_one:
            try:
                return torch.vmap(runner.outputs)(*rows)
            except RuntimeError as error:
                if "atching rule" not in str(error) and "vmap" not in str(error):
                    raise
                self._one_by_one = True
        made = [runner.outputs(*row) for row in zip(*rows, strict=True)]
        return tuple(torch.stack(values) for values in zip(*made, strict=True))


def _placeholders(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


class _Runner(fx.Interpreter):
    """Runs a graph with other values for some constants, rounding activations if asked to."""

    def __init__(
        self, graph: fx.GraphModule, values: Mapping[str, torch.Tensor], ranges: Ranges
    ) -> None:
        super().__init__(graph)
        self._values, self._ranges = values, ranges

    def outputs(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = self.run(*inputs)
        return tuple(made) if isinstance(made, tuple | list) else (made,)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self._values.get(str(target))
        return super().get_attr(target, args, kwargs) if value is None else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(_PARTS.get(target, target), args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        span = self._ranges.get(n.name)
        return value if span is None else _rounded(value, *span)


def _rounded(value: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return `value` in steps of the 8-bit grid over low..high; gradients pass inside it."""
    step = max(high - low, 1e-8) / _LEVELS
    zero = round(-low / step)
    inside = value.clamp(-zero * step, (_LEVELS - zero) * step)
    return inside + ((inside / step).round() * step - inside).detach()


class _Recorder(_Runner):
    """Notes the range of every float value that integer kernels would store."""

    def __init__(
        self, graph: fx.GraphModule, values: Mapping[str, torch.Tensor], ranges: Ranges
    ) -> None:
        super().__init__(graph, values, ranges)
        self.found: Ranges = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        stored = n.op in ("placeholder", "call_function") and not (
            n.users and all(user.target in _FUSED for user in n.users)
        )
        floats = isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel()
        if stored and floats:
            low, high = self.found.get(n.name, (0.0, 0.0))
            self.found[n.name] = (min(low, float(value.min())), max(high, float(value.max())))
        return value
