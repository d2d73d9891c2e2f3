"""The constants of a captured graph, read and written."""

import torch
from torch import fx, nn

from edgec_compiler.passes.graph import held


def values_of(graph: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Return every constant of `graph` by its name."""
    found = {}
    for node in graph.graph.nodes:
        value = held(graph, node)
        if value is not None:
            found[str(node.target)] = value
    return found


def set_value(graph: fx.GraphModule, name: str, value: torch.Tensor) -> None:
    """Let the constant `name` of `graph` be `value`, a parameter if it was one."""
    owner, _, leaf = name.rpartition(".")
    module = graph.get_submodule(owner)
    value = value.detach().clone().contiguous()
    if isinstance(getattr(module, leaf), nn.Parameter):
        value = nn.Parameter(value, requires_grad=False)
    setattr(module, leaf, value)
