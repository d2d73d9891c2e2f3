"""The mean of an image's or a signal's whole area: x [N, C, ...] -> [N, C, 1, ...].

Torch's exporter writes a pool with a result of one pixel as a reduction, for which ONNX's
quantisers have no integers; and one whose input lies channel-last in memory as a look-up, too.
"""

from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor, fx

from edgec_compiler.composites.library import composite

_A = torch.ops.aten
_POOLS = (
    _A.adaptive_avg_pool1d.default,
    _A.adaptive_avg_pool2d.default,
    _A.adaptive_avg_pool3d.default,
)


def _mean(x: Tensor) -> Tensor:
    return x.mean([*range(2, x.dim())], keepdim=True)


GLOBAL_AVERAGE = composite("global_average(Tensor x) -> Tensor", _mean)


def write_global_average(x: Any) -> Any:
    """Return the ONNX node of a `GLOBAL_AVERAGE`."""
    return opset18.GlobalAveragePool(x)


def with_whole_averages(graph: fx.GraphModule) -> fx.GraphModule:
    """Return `graph`, which stays as it is, with its averages of one pixel as `GLOBAL_AVERAGE`."""
    made = fx.Graph()
    output = made.graph_copy(graph.graph, {})
    made.output(output)
    for node in made.nodes:
        if node.target in _POOLS and all(size == 1 for size in node.args[1]):
            node.target, node.args = GLOBAL_AVERAGE, node.args[:1]
    return fx.GraphModule(graph, made)
