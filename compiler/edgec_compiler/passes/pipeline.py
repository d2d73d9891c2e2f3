"""The graph passes, in order, on one page; and the check after each of them.

A pass changes a captured graph in place. After every pass the graph must be well-formed, compute
what it computed before, and keep the pass's own promise; a failure names the pass. What a graph
computes is seen on an example, and on the same one with signs, since an example has none: many a
wrong rewrite is right for what is positive.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import fx

from edgec_compiler.errors import PassError
from edgec_compiler.passes import (
    affine,
    attention,
    batch_norm,
    channel_last,
    constants,
    curves,
    fusions,
    identities,
    masks,
    maxima,
    one_hots,
    paddings,
    parts,
    pools,
    powers,
    products,
    recurrences,
    repeats,
    rows,
    scaling,
    softmaxes,
    transposed,
    transposes,
    volumes,
)
from edgec_compiler.passes.graph import Example, observe

TOLERANCE = 1e-4  # of the largest output value: what reordering float32 sums may cost


@dataclass(frozen=True, slots=True)
class Pass:
    """A named rewrite. `remaining` counts what the pass promises to leave none of."""

    name: str
    run: Callable[[fx.GraphModule], int]  # how many places were rewritten
    remaining: Callable[[fx.GraphModule], int]


def _fusing(name: str, match: fusions.Match) -> Pass:
    return Pass(name, partial(fusions.fuse, match=match), partial(fusions.count, match=match))


PASSES: tuple[Pass, ...] = (
    Pass("drop-identities", identities.drop, identities.count),
    Pass("fold-constants", constants.fold, constants.count),
    Pass("drop-zero-states", recurrences.drop_zero_states, recurrences.count_zero_states),
    Pass("fuse-gelu", fusions.fuse_gelu, partial(fusions.count, match=fusions.gelu)),
    _fusing("fuse-hard-swish", fusions.hard_swish),
    _fusing("fuse-hard-sigmoid", fusions.hard_sigmoid),
    _fusing("fuse-hard-swish-again", fusions.hard_swish),
    _fusing("fuse-softmax", fusions.softmax),
    _fusing("fuse-layer-norm", fusions.layer_norm),
    Pass("products-as-layers", products.as_layers, products.count),
    Pass("bound-masks", masks.bound, masks.count),
    Pass("write-attention", attention.write_out, attention.count),
    Pass("split-layers", parts.split, parts.count),
    Pass("resize-by-repeat", repeats.resize, repeats.count),
    Pass("merge-transposes", transposes.merge, transposes.count),
    Pass("reduce-by-pool", pools.reduce_by_pool, pools.count_reductions),
    Pass("window-maxima", pools.window_maxima, pools.count_adaptive_maxima),
    Pass("fold-padding", paddings.fold, paddings.count),
    Pass("fold-batch-norm", batch_norm.fold, batch_norm.count),
    Pass("merge-scales", affine.merge, affine.count),
    Pass("fold-scales", scaling.fold, scaling.count),
    Pass("fold-batch-norm-again", batch_norm.fold, batch_norm.count),
    Pass("fold-constants-again", constants.fold, constants.count),
    Pass("drop-identities-again", identities.drop, identities.count),
    Pass("merge-transposes-again", transposes.merge, transposes.count),
)

# Behind them, for TFLite alone, whose runtimes and accelerators lack what others have.
TFLITE_PASSES: tuple[Pass, ...] = (
    Pass("rows-as-images", rows.lift, rows.count),
    Pass("compare-one-hots", one_hots.compare, one_hots.count),
    Pass("slice-volumes", volumes.slice_pools, volumes.count),
    Pass("scales-as-layers", affine.as_layers, affine.count_by_channel),
    Pass("cut-transposed", transposed.cut_out, transposed.count),
    Pass("lower-powers", powers.lower, powers.count),
    Pass("move-softmax-axes", softmaxes.move_axes, softmaxes.count),
    Pass("convolve-shuffles", channel_last.convolve_shuffles, channel_last.count_shuffles),
    Pass("write-prelus", channel_last.write_prelus, channel_last.count_prelus),
    Pass("write-curves", curves.write, curves.count),
    Pass("turn-differences", channel_last.turn_differences, channel_last.count_differences),
    Pass("same-padded-maxima", maxima.pad_maxima_alike, maxima.count_same_maxima),
    Pass("zero-padded-maxima", maxima.pad_maxima_with_zeros, maxima.count_padded_maxima),
    Pass("edge-padded-maxima", maxima.pad_maxima_with_edges, maxima.count_other_padded_maxima),
)


def run_passes(
    graph: fx.GraphModule, example: Example, passes: tuple[Pass, ...] = PASSES
) -> dict[str, int]:
    """Run `passes` over `graph` in place; return how many places each rewrote.

    Raises:
        PassError: a pass broke the graph, changed what it computes, or its promise, or failed.
    """
    signed = _seen_signed(graph, example)
    before = observe(graph, example)
    changed = {}
    for one in passes:
        try:
            changed[one.name] = one.run(graph)
            _tidy(graph)
            graph.graph.lint()
            problems = [_difference(before, observe(graph, example))]
            if changed[one.name]:
                problems.append(_signed_difference(graph, signed))
            left = one.remaining(graph)
        except Exception as error:  # a pass is code that may meet any graph: say which one it was
            reason = " ".join(str(error).split())[:300]
            raise PassError(one.name, f"failed: {type(error).__name__}: {reason}") from error
        for problem in filter(None, problems):
            raise PassError(one.name, problem)
        if left:
            raise PassError(one.name, f"left {left} places that it should rewrite")
    return changed


def _seen_signed(graph: fx.GraphModule, example: Example) -> list[tuple[Example, Example]]:
    """Return two inputs with floats in -1..1 and their outputs, for an example in 0..1.

    Left out are those that the model cannot take: floats may be indices, too.
    """
    seen = []
    for sign in (1, -1):
        given = tuple(sign * (2 * x - 1) if x.is_floating_point() else x for x in example)
        with suppress(RuntimeError, IndexError):
            seen.append((given, observe(graph, given)))
    return seen


def _signed_difference(graph: fx.GraphModule, seen: list[tuple[Example, Example]]) -> str | None:
    """Return what changed if it did for every input: one may fall on the step of a rounding."""
    problem = None
    for given, before in seen:
        problem = _difference(before, observe(graph, given))
        if problem is None:
            return None
    return None if problem is None else f"{problem}, for inputs below zero"


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


def _difference(before: Example, after: Example) -> str | None:
    """Return how outputs differ from what they were, or None."""
    if [t.shape for t in before] != [t.shape for t in after]:
        return "changed the outputs' shapes"
    for old, new in zip(before, after, strict=True):
        if not old.is_floating_point():
            if not torch.equal(old, new):
                return "changed an integer output"
            continue
        scale = max(float(old.abs().max()), 1e-6) if old.numel() else 1.0
        error = float((old - new).abs().max()) if old.numel() else 0.0
        if not error <= TOLERANCE * scale and torch.isfinite(old).all():
            return f"changed an output by {error:.3g} (largest {scale:.3g})"
    return None
