"""Operators that litert-torch knows no channel-last form of, and would transpose around.

Its layout pass turns regions of a graph from NCHW to NHWC; what it knows no form of ends a region.
An uneven padding, as TensorFlow's SAME with stride 2, would so cost two transposes a layer. It
takes a repetition for elementwise, which it is not, and an expansion that was turned as a whole
does not fit what it is divided by.
"""

from functools import cache
from typing import Any

import torch
from torch import fx

_A = torch.ops.aten
_RANK = 4


@cache
def teach_layouts() -> None:
    """Add the forms, once, to litert-torch's tables."""
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import (
        layout_check,
        layout_rewrite,
    )

    forms, checks = layout_rewrite.rewriters, layout_check.nhwcable_node_checkers

    def has_images(node: fx.Node) -> Any:
        inputs = layout_check.all_layout_sensitive_inputs_are_4d(node)
        return layout_check.NHWCable(inputs and layout_check.is_4d(node), must_be=False)

    forms.register(_A.elu)(layout_rewrite.noop)
    for by_axis in (_A.amin, _A.roll, _A.linalg_vector_norm):
        forms.register(by_axis)(layout_rewrite.dim_attr_rewriter)
    forms.register(_A.constant_pad_nd)(_pad)
    for sized in (_A.expand, _A.repeat):
        forms.register(sized)(_sizes)
        checks.register(sized)(has_images)


def _pad(node: fx.Node) -> None:
    """Pads come as pairs from the last axis on: W, H, C, N becomes C, W, H, N."""
    x, pads, *value = node.args
    assert isinstance(pads, list | tuple)  # noqa: S101  the schema's int[]
    w, h, c, n = ([*pads[i : i + 2]] or [0, 0] for i in range(0, 2 * _RANK, 2))
    node.args = (x, [*c, *w, *h, *n], *value)


def _sizes(node: fx.Node) -> None:
    """One size for each axis: N, C, H, W becomes N, H, W, C."""
    x, sizes, *rest = node.args
    assert isinstance(sizes, list | tuple)  # noqa: S101  the schema's int[]
    n, c, h, w = sizes
    node.args = (x, [n, h, w, c], *rest)
