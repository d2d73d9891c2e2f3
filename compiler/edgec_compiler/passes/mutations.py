"""Takes writing in place out of a captured graph, since passes move and merge what is written to.

Renamed: an operator in place whose value nothing else can see, as relu_ right behind its layer.
Functionalised: everything else, by torch itself, which also writes out some operators; those that
passes know get their names back.
"""

import warnings
from typing import Any

import torch
from torch import fx
from torch._C import DispatchKey
from torch.export import ExportedProgram

_A = torch.ops.aten
_NORM = _A._native_batch_norm_legit_no_training.default
# Composed of others, but never a view of what they read, as dropout is in evaluation.
_FRESH = (
    *(_A.conv1d.default, _A.conv2d.default, _A.conv3d.default, _A.conv_transpose1d.default),
    *(_A.conv_transpose2d.input, _A.linear.default, _A.matmul.default),
    *(_A.batch_norm.default, _A.layer_norm.default, _A.group_norm.default),
)


def without_mutations(program: ExportedProgram) -> ExportedProgram:
    """Return a program that computes the same and writes nothing in place."""
    for node in program.graph.nodes:
        renamed = _renamed(node)
        if renamed is not None and _is_unseen(node.args[0]):
            node.target = renamed
    if not any(_writes(node) for node in program.graph.nodes):
        program.graph_module.recompile()
        return program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's notes on its own code
        functional: ExportedProgram = program.run_decompositions({})
    for node in list(functional.graph.nodes):
        _restore(functional.graph, node)
    functional.graph_module.recompile()
    return functional


def _writes(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _renamed(node: fx.Node) -> Any:
    """Return the operator of the same arguments that writes nothing, or None."""
    if not _writes(node) or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = node.target._schema.name.removeprefix("aten::")
    packet = getattr(_A, name[:-1], None) if name.endswith("_") else None
    other = getattr(packet, node.target._overloadname, None)
    same = other is not None and len(other._schema.arguments) == len(node.target._schema.arguments)
    return other if same else None


def _is_unseen(source: Any) -> bool:
    """Return whether only one operator reads `source`, and it shares no memory with another."""
    if not isinstance(source, fx.Node) or len(source.users) != 1:
        return False
    target = source.target
    if source.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    shared = any(one.alias_info is not None for one in target._schema.returns)
    composed = target.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    return not shared and (target in _FRESH or not composed)


def _restore(graph: fx.Graph, node: fx.Node) -> None:
    if node.target is _NORM:
        *parts, momentum, eps = node.args
        with graph.inserting_before(node):
            args = (*parts, False, momentum, eps, False)
            norm = graph.call_function(_A.batch_norm.default, args)
        for user in list(node.users):
            user.replace_all_uses_with(norm)
            graph.erase_node(user)
        norm.meta = {"val": node.meta["val"][0]} if "val" in node.meta else {}
        graph.erase_node(node)
