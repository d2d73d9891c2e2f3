"""Operators that litert-torch knows no channel-last form of, and would transpose around.

Its pass turns regions of a graph from NCHW to NHWC; what it knows no form of ends the region. An
uneven padding, as TensorFlow's SAME with stride 2, would so cost two transposes a layer.
"""

from functools import cache

import torch
from torch import fx

_A = torch.ops.aten


@cache
def teach_layouts() -> None:
    """Add the forms, once, to litert-torch's table."""
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import layout_rewrite

    layout_rewrite.rewriters.register(_A.constant_pad_nd)(_pad)


def _pad(node: fx.Node) -> None:
    """Pads come as pairs from the last axis on: W, H, C, N becomes C, W, H, N."""
    x, pads, *value = node.args
    assert isinstance(pads, list | tuple)  # noqa: S101  the schema's int[]
    w, h, c, n = ([*pads[i : i + 2]] or [0, 0] for i in range(0, 8, 2))
    node.args = (x, [*c, *w, *h, *n], *value)
