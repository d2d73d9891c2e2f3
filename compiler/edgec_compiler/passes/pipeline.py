"""The graph passes, in order, on one page; and the check after each of them.

A pass changes a captured graph in place. After every pass the graph must be well-formed, compute
what it computed before, and keep the pass's own promise; a failure names the pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from edgec_compiler.errors import PassError
from edgec_compiler.passes import batch_norm, constants, fusions, identities
from edgec_compiler.passes.graph import Example, observe

TOLERANCE = 1e-4  # of the largest output value: what reordering float32 sums may cost


@dataclass(frozen=True, slots=True)
class Pass:
    """A named rewrite. `remaining` counts what the pass promises to leave none of."""

    name: str
    run: Callable[[fx.GraphModule], int]  # how many places were rewritten
    remaining: Callable[[fx.GraphModule], int]


PASSES: tuple[Pass, ...] = (
    Pass("drop-identities", identities.drop, identities.count),
    Pass("fold-constants", constants.fold, constants.count),
    Pass("fuse-gelu", fusions.fuse_gelu, fusions.count_gelu),
    Pass("mean-to-pool", fusions.mean_to_pool, fusions.count_mean),
    Pass("fold-batch-norm", batch_norm.fold, batch_norm.count),
    Pass("fold-constants-again", constants.fold, constants.count),
)


def run_passes(
    graph: fx.GraphModule, example: Example, passes: tuple[Pass, ...] = PASSES
) -> dict[str, int]:
    """Run `passes` over `graph` in place; return how many places each rewrote.

    Raises:
        PassError: a pass broke the graph, changed what it computes, or its promise.
    """
    before = observe(graph, example)
    changed = {}
    for one in passes:
        changed[one.name] = one.run(graph)
        _tidy(graph)
        try:
            graph.graph.lint()
        except RuntimeError as error:
            raise PassError(one.name, f"left a malformed graph: {error}") from error
        after = observe(graph, example)
        _check_same(one, before, after)
        left = one.remaining(graph)
        if left:
            raise PassError(one.name, f"left {left} places that it should rewrite")
    return changed


def _tidy(graph: fx.GraphModule) -> None:
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name, _ in (*graph.named_parameters(remove_duplicate=False), *graph.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        holder = graph.get_submodule(owner)
        if name not in read and hasattr(holder, leaf):
            delattr(holder, leaf)
    graph.recompile()


def _check_same(
    one: Pass, before: tuple[torch.Tensor, ...], after: tuple[torch.Tensor, ...]
) -> None:
    if [t.shape for t in before] != [t.shape for t in after]:
        raise PassError(one.name, "changed the outputs' shapes")
    for old, new in zip(before, after, strict=True):
        if not old.is_floating_point():
            if not torch.equal(old, new):
                raise PassError(one.name, "changed an integer output")
            continue
        scale = max(float(old.abs().max()), 1e-6) if old.numel() else 1.0
        error = float((old - new).abs().max()) if old.numel() else 0.0
        if not error <= TOLERANCE * scale and torch.isfinite(old).all():
            raise PassError(one.name, f"changed an output by {error:.3g} (largest {scale:.3g})")
