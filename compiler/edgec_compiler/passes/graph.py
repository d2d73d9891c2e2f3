"""The graph that passes work on: torch's export IR (ATen operators, static shapes) as torch.fx.

`capture` makes it, `observe` runs it once and notes every value's shape; both are how a pass's
result is checked.
"""

import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import fx, nn

from edgec_compiler.errors import ConversionError
from edgec_compiler.passes.mutations import without_mutations

Example = tuple[torch.Tensor, ...]
_A = torch.ops.aten
# torch has two names for these; Keras calls the longer ones, passes know the shorter.
_SYNONYMS = {
    _A.subtract.Tensor: _A.sub.Tensor,
    _A.multiply.Tensor: _A.mul.Tensor,
    _A.divide.Tensor: _A.div.Tensor,
    _A.true_divide.Tensor: _A.div.Tensor,
    _A.negative.default: _A.neg.default,
    _A.absolute.default: _A.abs.default,
    _A.clip.default: _A.clamp.default,
    _A.concat.default: _A.cat.default,
    _A.concatenate.default: _A.cat.default,
    # A view is bound to how its input lies in memory, which passes change.
    _A.view.default: _A.reshape.default,
    _A._unsafe_view.default: _A.reshape.default,
}


def capture(module: nn.Module, example: Example) -> fx.GraphModule:
    """Return `module` as a flat graph of ATen operators for inputs like `example`.

    Raises:
        ConversionError: what the module does depends on values that only its input brings.
    """
    try:
        with torch.no_grad():
            program = without_mutations(torch.export.export(module, example))
    except Exception as error:  # torch.export's errors share no base class
        reason = str(error).strip().partition("\n")[0][:300]
        raise ConversionError(
            f"torch cannot capture the model: {type(error).__name__}: {reason}"
        ) from error
    graph = program.module(check_guards=False)
    if not isinstance(graph, fx.GraphModule):
        raise TypeError(f"expected a GraphModule, got {type(graph).__name__}")
    for node in graph.graph.nodes:
        node.target = _SYNONYMS.get(node.target, node.target)
    graph.recompile()
    return graph


def copied(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of `graph` that can be changed by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch copies a graph by means that it deprecates
        return deepcopy(graph)


class _Observer(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            n.meta["shape"], n.meta["dtype"] = tuple(value.shape), value.dtype
        return value


def observe(graph: fx.GraphModule, example: Example) -> tuple[torch.Tensor, ...]:
    """Return the outputs for `example`; every node's meta then has "shape" and "dtype"."""
    with torch.no_grad():
        made = _Observer(graph).run(*example)
    return tuple(made) if isinstance(made, tuple | list) else (made,)


def shape_of(node: Any) -> tuple[int, ...] | None:
    """Return the static shape of a node's value, or None if it is not one tensor."""
    return node.meta.get("shape") if isinstance(node, fx.Node) else None


def is_call(node: Any, *targets: Any) -> bool:
    """Return whether `node` calls one of the operators `targets`."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def held(graph: fx.GraphModule, node: Any) -> torch.Tensor | None:
    """Return the tensor that a get_attr node reads, or None if `node` is none."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part, None)
    return value.detach() if isinstance(value, torch.Tensor) else None


def hold(graph: fx.GraphModule, tensor: torch.Tensor, near: fx.Node) -> fx.Node:
    """Return a new get_attr node before `near` that reads `tensor`, a parameter if it is float.

    Its values lie in the order of its axes: litert-torch reads some weights as if they did.
    """
    tensor = tensor.contiguous()
    number = 0
    while hasattr(graph, f"folded_{number}"):
        number += 1
    name = f"folded_{number}"
    if tensor.is_floating_point():
        graph.register_parameter(name, nn.Parameter(tensor.clone(), requires_grad=False))
    else:
        graph.register_buffer(name, tensor.clone())
    with graph.graph.inserting_before(near):
        node = graph.graph.get_attr(name)
    node.meta["shape"], node.meta["dtype"] = tuple(tensor.shape), tensor.dtype
    return node


def replace(old: fx.Node, new: fx.Node) -> None:
    """Let every reader of `old` read `new`, which computes the same."""
    for key in ("shape", "dtype", "val"):
        if key in old.meta and key not in new.meta:
            new.meta[key] = old.meta[key]
    old.replace_all_uses_with(new)
