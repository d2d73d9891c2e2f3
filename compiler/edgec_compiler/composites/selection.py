"""NonMaxSuppression with a fixed number of rows: those behind the last selected box hold -1.

boxes [N, B, 4], scores [N, classes, B] -> int64 [rows, 3]: batch, class and box of each selected
one, the best first within its class. Rows are as many as could be selected. Boxes have two
opposite corners as y, x, y, x, or with `center` the center's x, y, the width and the height.

Source: onnx.ai/onnx/operators, NonMaxSuppression.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnxscript import opset18
from torch import Tensor

from edgec_compiler.composites.library import opaque

Floats = npt.NDArray[np.float32]
EMPTY = -1


def rows_of(boxes: Any, scores: Any, most: int) -> int:
    """Return how many boxes can be selected at most."""
    return int(scores.shape[0]) * int(scores.shape[1]) * min(most, int(boxes.shape[1]))


def _corners(boxes: Floats, *, center: bool) -> tuple[Floats, Floats]:
    """Return the low and the high corners, [N, B, 2] each."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center:
        half = (second / 2).astype(np.float32)
        return first - half, first + half
    return np.minimum(first, second), np.maximum(first, second)


def _overlaps(low: Floats, high: Floats, one: int) -> Floats:
    """Return the intersection over union of box `one` with each, [B]."""
    inner = np.minimum(high, high[one]) - np.maximum(low, low[one])
    shared = np.clip(inner, 0, None).prod(1)
    areas = (high - low).prod(1)
    union = areas + areas[one] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0).astype(np.float32)


def _selected(low: Floats, high: Floats, scores: Floats, most: int, iou: float) -> list[int]:
    free = scores > -np.inf
    found: list[int] = []
    for one in np.argsort(-scores, kind="stable"):
        if len(found) == most:
            break
        if free[one]:
            found.append(int(one))
            free &= ~(_overlaps(low, high, int(one)) > iou)
    return found


def _nms(
    boxes: Tensor, scores: Tensor, most: int, iou: Tensor, least: Tensor | None, center: bool
) -> Tensor:
    made = np.full((rows_of(boxes, scores, most), 3), EMPTY, np.int64)
    low, high = _corners(boxes.detach().numpy(), center=center)
    given = scores.detach().numpy()
    if least is not None:
        given = np.where(given > float(least.detach()), given, -np.inf)
    row = 0
    for batch, classes in enumerate(given):
        for number, own in enumerate(classes):
            for box in _selected(low[batch], high[batch], own, most, float(iou.detach())):
                made[row] = batch, number, box
                row += 1
    return torch.from_numpy(made)


def _shape(
    boxes: Tensor, scores: Tensor, most: int, iou: Tensor, least: Tensor | None, center: bool
) -> Tensor:
    return boxes.new_empty((rows_of(boxes, scores, most), 3), dtype=torch.int64)


NMS = opaque(
    "nms(Tensor boxes, Tensor scores, int most, Tensor iou, Tensor? least, bool center) -> Tensor",
    _nms,
    _shape,
)


def write_nms(boxes: Any, scores: Any, most: int, iou: Any, least: Any, center: bool) -> Any:
    """Return the ONNX nodes of an `NMS`: NonMaxSuppression, and rows of -1 behind its own."""
    op = opset18
    kind = int(center)
    found = op.NonMaxSuppression(boxes, scores, _ints(most), iou, least, center_point_box=kind)
    rows = rows_of(boxes, scores, most)
    missing = op.Sub(_ints(rows), op.Gather(op.Shape(found), _ints(0)))
    empty = op.Expand(_ints(EMPTY), op.Concat(missing, _ints(3), axis=0))
    return op.Reshape(op.Concat(found, empty, axis=0), _ints(rows, 3))


def _ints(*values: int) -> Any:
    return opset18.Constant(value_ints=list(values))
