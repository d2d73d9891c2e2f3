"""How much the single rows of a layer matter to the model's outputs: from gradients of the graph.

The error that a row's weights make is squared and weighed with the mean squared gradient of the
outputs at the row's own output, summed over positions. The gradients of all outputs come from a few
backward passes with random signs, whose squares have the same mean (Hutchinson 1989).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import fx

from edgec_compiler.passes.graph import held
from edgec_compiler.requantise.layer import Array, Floats, Signature

_SAMPLES = 32
_PROBES = 4
_LEAST = 1e-3  # of the mean: no row is free
_CONVOLUTIONS = ("conv1d", "conv2d", "convolution")


@dataclass(slots=True)
class Shares:
    """Mean squared gradients [G, R] at the output of one layer of the graph."""

    signature: Signature
    total: Floats


def row_shares(graph: fx.GraphModule, samples: Iterable[Mapping[str, Array]]) -> list[Shares]:
    """Return the shares of every convolution and linear layer of `graph`, in its order.

    Args:
        graph: float, as the passes leave it.
        samples: what it reads, in the order of its inputs.
    """
    found: dict[str, Shares] = {}
    draw = torch.Generator().manual_seed(0)
    for sample in islice(samples, _SAMPLES):
        for _ in range(_PROBES):
            probe = _Probe(graph)
            with torch.enable_grad():
                made = probe.run(*(torch.from_numpy(np.array(value)) for value in sample.values()))
                outputs = made if isinstance(made, tuple | list) else (made,)
                signs = [torch.randint(0, 2, one.shape, generator=draw) * 2 - 1 for one in outputs]
                pairs = zip(outputs, signs, strict=True)
                whole = [(one * sign).sum() for one, sign in pairs if one.requires_grad]
                if not whole:
                    return []
                torch.stack(whole).sum().backward()  # type: ignore[no-untyped-call]
            for name, signature, output in probe.seen:
                if output.grad is None:
                    continue
                kept = found.setdefault(name, Shares(signature, np.zeros(signature.shape[:2])))
                kept.total += _by_row(output.grad, signature)
    return list(found.values())


def aligned(shares: Sequence[Shares], layers: Mapping[int, Signature]) -> dict[int, Floats]:
    """Return {layer: [G, R] shares with mean 1}, for the layers that are in the graph too."""
    numbers = list(layers)
    matcher = SequenceMatcher(
        None, [layers[n] for n in numbers], [one.signature for one in shares], autojunk=False
    )
    found = {}
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            total = shares[block.b + step].total
            mean = float(total.mean())
            if mean > 0 and np.isfinite(mean):
                found[numbers[block.a + step]] = np.maximum(total / mean, _LEAST)
    return found


class _Probe(fx.Interpreter):
    """Runs the graph and keeps the outputs of its layers, with their gradients to come."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.seen: list[tuple[str, Signature, torch.Tensor]] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        signature = _signature(self.module, n)
        if signature is not None and isinstance(value, torch.Tensor):
            if not value.requires_grad:
                value = value.requires_grad_(True).clone()  # no leaf: what follows may write in it
            value.retain_grad()
            self.seen.append((n.name, signature, value))
        return value


def _signature(graph: Any, node: fx.Node) -> Signature | None:
    """Return the signature of a layer, or None if `node` is no convolution or linear layer."""
    if node.op != "call_function" or len(node.args) < 2:
        return None
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    weights = held(graph, node.args[1]) if name in (*_CONVOLUTIONS, "linear") else None
    if weights is None:
        return None
    shape = tuple(int(size) for size in weights.shape)
    if name == "linear":
        return Signature("dense", (1, *shape), (1, 1)) if len(shape) == 2 else None
    place = 8 if name == "convolution" else 6
    groups = node.args[place] if len(node.args) > place else node.kwargs.get("groups", 1)
    if not isinstance(groups, int) or len(shape) not in (3, 4):
        return None
    kernel = (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])
    columns = shape[1] * kernel[0] * kernel[1]
    return Signature("conv", (groups, shape[0] // groups, columns), kernel)


def _by_row(gradient: torch.Tensor, signature: Signature) -> Floats:
    axis = 1 if signature.op == "conv" else gradient.ndim - 1
    others = tuple(i for i in range(gradient.ndim) if i != axis)
    square = gradient.double().square()
    found: Floats = (square.sum(others) if others else square).numpy()
    return found.reshape(signature.shape[:2])
