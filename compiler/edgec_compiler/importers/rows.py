"""A module whose inputs and outputs all have a batch axis, as `batch_axes` says which lack it."""

from typing import Any

import torch
from torch import nn

from edgec_compiler.importers.batch_axes import Places


class Rows(nn.Module):
    """A module with a batch axis of 1 before that of some of its inputs and outputs."""

    def __init__(self, module: nn.Module, places: Places) -> None:
        super().__init__()
        self.module = module
        self.places = places

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return the outputs: one tensor, or a tuple of several."""
        given = [x[0] if i in self.places.inputs else x for i, x in enumerate(inputs)]
        made: Any = self.module(*given)
        flat = (made,) if isinstance(made, torch.Tensor) else tuple(made)
        rows = tuple(x[None] if i in self.places.outputs else x for i, x in enumerate(flat))
        return rows[0] if len(rows) == 1 else rows
