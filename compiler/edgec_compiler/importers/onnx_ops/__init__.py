"""What each ONNX operator does, in torch: one table per family.

A row maps an operator to a function ``(node, *inputs) -> tensor or tuple of tensors``; a left-out
optional input is None. Operators that are absent here and are defined by ONNX as a function of
others are expanded by the importer. To add one, add a row.
"""

from collections.abc import Callable, Mapping
from typing import Any

from edgec_compiler.importers.onnx_ops import (
    detection,
    elementwise,
    indexing,
    integers,
    layers,
    pooling,
    quantised,
    recurrent,
    reductions,
    resizing,
    sequences,
    shapes,
    signals,
)

OpTable = Mapping[str, Callable[..., Any]]

_FAMILIES: tuple[OpTable, ...] = (
    detection.OPS,
    elementwise.OPS,
    indexing.OPS,
    integers.OPS,
    layers.OPS,
    pooling.OPS,
    quantised.OPS,
    recurrent.OPS,
    reductions.OPS,
    resizing.OPS,
    sequences.OPS,
    shapes.OPS,
    signals.OPS,
)

OPS: OpTable = {name: call for family in _FAMILIES for name, call in family.items()}
if len(OPS) != sum(map(len, _FAMILIES)):
    raise RuntimeError("two operator families define the same operator")
