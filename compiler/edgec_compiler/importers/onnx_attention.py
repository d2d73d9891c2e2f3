"""ONNX Runtime's fused transformer layers, written out in ONNX's operators.

Not known: a past of keys and values, rotary embeddings, packed queries, keys and values, and masks
by two or three lengths of each row.

Source: onnxruntime docs/ContribOperators.md, com.microsoft 1.
"""

import math

import numpy as np
import onnx

from edgec_compiler.importers.onnx_writer import NotWritableError, Writer

_FILTER = -10000.0  # what a masked score gets, if the operator does not say


def attention(w: Writer) -> None:
    """Write `Attention`: queries, keys and values are layers of one input."""
    _refuse(w, inputs=(4, 6), outputs=(1,), flags=("do_rotary",))
    width = w.shape(1)[-1]
    sizes = list(w.attributes.get("qkv_hidden_sizes") or [width // 3] * 3)
    parts = []
    for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        layer = w.op("MatMul", [w.input(0), _part(w, w.input(1), start, size, axis=1)])
        if w.input(2):
            layer = w.op("Add", [layer, _part(w, w.input(2), start, size, axis=0)])
        parts.append(layer)
    length = w.shape(0)[1]
    _attend(w, parts, (length, length), sizes[0], mask=3, bias=5)


def multi_head_attention(w: Writer) -> None:
    """Write `MultiHeadAttention`: queries, keys and values are inputs."""
    _refuse(w, inputs=(6, 7, 8, 9), outputs=(1, 2, 3))
    shapes = [w.shape(index) for index in range(3)]
    if any(len(shape) != 3 for shape in shapes):
        raise NotWritableError
    parts, start = [], 0
    for index, shape in enumerate(shapes):
        part = w.input(index)
        if w.input(3):
            part = w.op("Add", [part, _part(w, w.input(3), start, shape[-1], axis=0)])
        start += shape[-1]
        parts.append(part)
    _attend(w, parts, (shapes[0][1], shapes[1][1]), shapes[0][-1], mask=4, bias=5)


def embed_norm(w: Writer) -> None:
    """Write `EmbedLayerNormalization`: a sum of embeddings, normed."""
    total = w.op("Gather", [w.input(2), w.input(0)])
    if w.input(8):
        places = w.op("Gather", [w.input(3), w.input(8)])
    else:
        places = _part(w, w.input(3), 0, w.shape(0)[1], axis=0)
    total = w.op("Add", [total, places])
    if w.input(1):
        total = w.op("Add", [total, w.op("Gather", [w.input(4), w.input(1)])])
    epsilon = w.attributes.get("epsilon", 1e-12)
    normed = [total, w.input(5), w.input(6)]
    w.op("LayerNormalization", normed, w.node.output[0], axis=-1, epsilon=epsilon)
    if _wants(w, 1):
        if not w.input(7):
            raise NotWritableError
        real = w.op("Cast", [w.input(7)], to=onnx.TensorProto.FLOAT)
        counted = w.op("Einsum", [real], equation="ij->i")
        w.op("Cast", [counted], w.node.output[1], to=onnx.TensorProto.INT32)
    if _wants(w, 2):
        w.op("Identity", [total], w.node.output[2])


def _refuse(
    w: Writer, inputs: tuple[int, ...], outputs: tuple[int, ...], flags: tuple[str, ...] = ()
) -> None:
    """Raise NotWritableError if the operator has one of these inputs, outputs or flags."""
    given = any(w.input(index) for index in inputs) or any(w.attributes.get(f) for f in flags)
    if given or any(_wants(w, index) for index in outputs):
        raise NotWritableError


def _wants(w: Writer, index: int) -> bool:
    return len(w.node.output) > index and bool(w.node.output[index])


def _part(w: Writer, value: str, start: int, size: int, axis: int) -> str:
    """Return `size` entries along an axis, from `start` on."""
    ends = ([start], [start + size], [axis])
    return w.op("Slice", [value, *(w.constant(one, np.int64) for one in ends)])


def _attend(
    w: Writer, parts: list[str], lengths: tuple[int, int], width: int, *, mask: int, bias: int
) -> None:
    """Write softmax(q k^T * scale + masks) v, head by head.

    Args:
        w: the writer.
        parts: queries, keys and values, [batch, length, heads * size].
        lengths: of the queries and of the keys.
        width: of the queries: heads * size.
        mask: the number of the input that masks keys.
        bias: of the input that is added to the scores.
    """
    heads = int(w.attributes["num_heads"])
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    split = w.constant([0, 0, heads, -1], np.int64)
    q, k, v = (
        w.op("Transpose", [w.op("Reshape", [part, split])], perm=order)
        for part, order in zip(parts, orders, strict=True)
    )
    scale = w.attributes.get("scale") or 1 / math.sqrt(width // heads)
    scores = w.op("Mul", [w.op("MatMul", [q, k]), w.constant(scale)])
    if w.input(mask):
        scores = w.op("Add", [scores, _masked(w, mask, lengths[1])])
    if w.attributes.get("unidirectional"):
        later = np.triu(np.full(lengths, _filter(w), np.float32), 1 + lengths[1] - lengths[0])
        scores = w.op("Add", [scores, w.constant(later[None, None])])
    if w.input(bias):
        scores = w.op("Add", [scores, w.input(bias)])
    made = w.op("MatMul", [w.op("Softmax", [scores], axis=-1), v])
    made = w.op("Transpose", [made], perm=orders[0])
    w.op("Reshape", [made, w.constant([0, 0, -1], np.int64)], w.node.output[0])


def _filter(w: Writer) -> float:
    return float(w.attributes.get("mask_filter_value", _FILTER))


def _masked(w: Writer, index: int, length: int) -> str:
    """Return what is added to scores: the filter for keys that a mask leaves out, 0 for others."""
    shape, given = w.shape(index), w.input(index)
    if len(shape) in (2, 3) and shape[-1] == length:
        wide = w.op("Reshape", [given, w.constant([0, 1, -1, length], np.int64)])
        seen = w.op("Cast", [wide], to=onnx.TensorProto.BOOL)
    elif shape == w.shape(0)[:1]:  # how many keys of each row count
        ends = w.op("Reshape", [given, w.constant([-1, 1, 1, 1], np.int64)])
        seen = w.op("Less", [w.constant(np.arange(length), np.int32), ends])
    else:
        raise NotWritableError
    real = w.op("Cast", [seen], to=onnx.TensorProto.FLOAT)
    return w.op("Mul", [w.op("Sub", [w.constant(1), real]), w.constant(_filter(w))])
