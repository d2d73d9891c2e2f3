"""What takes part in no maximum, around an image, becomes the padding of the pool that reads it.

That is minus infinity, or copies of the edge. The pool computes the same values, as each of its
windows holds a line of the image, and nothing is infinite that a quantiser would find a range for.
Left alone: a padding with another reader, on other axes, and what no pool may pad, its window or
more.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

_ENDLESS = (b"constant", True)


def fold(model: onnx.ModelProto) -> None:
    """Rewrite `model` in place: each such Pad that a MaxPool alone reads."""
    graph = model.graph
    constants = {one.name: one for one in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    read = [*(name for node in graph.node for name in node.input), *(v.name for v in graph.output)]
    for pool in graph.node:
        pad = makers.get(pool.input[0]) if pool.op_type == "MaxPool" else None
        if pad is None or pad.op_type != "Pad" or read.count(pool.input[0]) != 1:
            continue
        pads = _sum(pool, _unseen(pad, constants))
        if pads is None:
            continue
        kept = [one for one in pool.attribute if one.name not in ("pads", "auto_pad")]
        del pool.attribute[:]
        pool.attribute.extend([*kept, helper.make_attribute("pads", pads)])
        pool.input[0] = pad.input[0]
        graph.node.remove(pad)
    left = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    for name in constants.keys() - left:
        graph.initializer.remove(constants[name])


def _unseen(pad: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[int] | None:
    """Return the pads of a Pad of minus infinity or of edges, per axis, before and then after."""
    mode = next((one.s for one in pad.attribute if one.name == "mode"), b"constant")
    known = [constants.get(name) for name in pad.input[1:] if name]
    values = [numpy_helper.to_array(one) for one in known if one is not None]
    if len(values) != len(known) or not values:
        return None
    endless = len(values) == 2 and bool(np.all(values[1] == -np.inf))
    return [int(n) for n in values[0]] if mode == b"edge" or (mode, endless) == _ENDLESS else None


def _sum(pool: onnx.NodeProto, more: list[int] | None) -> list[int] | None:
    """Return the pads that `pool` has with `more` around the image it reads, if it may."""
    given = {one.name: helper.get_attribute_value(one) for one in pool.attribute}
    window = given["kernel_shape"]
    if more is None or len(more) != 2 * len(window) + 4 or len(pool.output) > 1:
        return None
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    half = len(more) // 2
    around = [*more[:2], *more[half : half + 2]]
    added = [*more[2:half], *more[half + 2 :]]
    pads = [a + b for a, b in zip(given.get("pads", [0] * len(added)), added, strict=True)]
    fits = all(0 <= n < k for n, k in zip(pads, [*window, *window], strict=True))
    return pads if fits and not any(around) and min(added) >= 0 else None
