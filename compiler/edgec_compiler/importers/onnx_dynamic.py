"""Takes the quantisation at run time out of an ONNX model, as `quantize_dynamic` puts it in.

DynamicQuantizeLinear measures each input's range anew, rounds to it, and hands on the integers,
their scale and zero point; MatMulInteger or ConvInteger multiplies by integer weights, and both
scales are multiplied in behind it. For real numbers that is the product by what the integers of the
weights stand for:

DynamicQuantizeLinear    its integers become the reals themselves, with scale 1 and zero point 0.
MatMulInteger,           of these, with constant weights: MatMul or Conv by weights less their zero
ConvInteger              point; the multiplication by the weights' scale follows in the model.
DynamicQuantizeMatMul,   ONNX Runtime's own: MatMul and LSTM by what the weights stand for.
DynamicQuantizeLSTM

Left alone: integers that other operators read, and weights that are no constants.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgec_compiler.importers.onnx_pairs import NOTE

_OWN_DOMAINS = ("", "ai.onnx")
_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
_MOVING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_UNFUSED = ("DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
_LSTM = ("activation_alpha", "activation_beta", "activations", "clip", "direction")
_LSTM_KEPT = (*_LSTM, "hidden_size", "input_forget")
Array = np.ndarray[Any, Any]


def without_dynamic(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy that computes on reals, and a note; the model itself if it has none of these.

    Args:
        model: its nodes lie in order.
    """
    work = _Reals(model)
    nodes = [made for node in model.graph.node for made in work.take(node)]
    if not work.count:
        return model, ()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(work.weights)
    return copy, (NOTE,)


def _is(node: onnx.NodeProto, *kinds: str) -> bool:
    return node.op_type in kinds and node.domain in _OWN_DOMAINS


class _Reals:
    """The model under way. `real` maps integers made at run time to the reals that they are of."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._constants = {one.name: one for one in model.graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._ends = {value.name for value in model.graph.output}
        self._real: set[str] = set()
        self.weights: list[onnx.TensorProto] = []
        self.count = 0

    def take(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what stands for `node`."""
        if _is(node, "Constant") and any(a.name == "value" for a in node.attribute):
            self._constants[node.output[0]] = node.attribute[0].t
        made: list[onnx.NodeProto] | None = None
        if _is(node, "DynamicQuantizeLinear") and self._is_only_multiplied(node.output[0]):
            made = self._opened(node)
        elif _is(node, *_PRODUCTS) and node.input[0] in self._real:
            made = self._product(node)
        elif _is(node, *_MOVING) and node.input[0] in self._real:
            self._real.add(node.output[0])
        elif node.domain == "com.microsoft" and node.op_type in _UNFUSED:
            made = self._unfused(node)
        if made is None:
            return [node]
        self.count += 1
        return made

    def _is_only_multiplied(self, name: str) -> bool:
        """Return whether all that reads integers made at run time can read reals instead."""
        if name in self._ends:
            return False
        readers = self._readers.get(name, [])
        return all(
            self._is_only_multiplied(one.output[0])
            if _is(one, *_MOVING)
            else _is(one, *_PRODUCTS) and one.input[0] == name and self._weights(one) is not None
            for one in readers
        )

    def _opened(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        integers, scale, zero = node.output
        self._real.add(integers)
        parts = ((scale, np.float32(1)), (zero, np.uint8(0)))
        made = [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))
            for name, value in parts
            if name
        ]
        return [helper.make_node("Identity", [node.input[0]], [integers]), *made]

    def _weights(self, node: onnx.NodeProto) -> Array | None:
        """Return the weights of a product of integers less their zero point."""
        values = self._values(node, 1)
        zero = self._values(node, 3) if len(node.input) > 3 and node.input[3] else np.uint8(0)
        if values is None or zero is None:
            return None
        if node.op_type == "ConvInteger" and zero.size > 1:
            zero = zero.reshape([-1] + [1] * (values.ndim - 1))
        return values.astype(np.float32) - zero.astype(np.float32)

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        weights = self._weights(node)
        assert weights is not None  # noqa: S101  _is_only_multiplied has looked
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.op_type = _PRODUCTS[node.op_type]
        del made.input[:]
        made.input.extend([node.input[0], self._held(node, "weights", weights)])
        return [made]

    def _unfused(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.op_type == "DynamicQuantizeMatMul":
            return self._matmul(node)
        return self._lstm(node)

    def _matmul(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Inputs: a, b, scale of b, zero point of b, bias."""
        weights = self._scaled(node, 1, 2, 3)
        if weights is None:
            return None
        bias = node.input[4] if len(node.input) > 4 else ""
        product = f"{node.output[0]}/product" if bias else node.output[0]
        given = [node.input[0], self._held(node, "weights", weights)]
        made = [helper.make_node("MatMul", given, [product])]
        if bias:
            made.append(helper.make_node("Add", [product, bias], [node.output[0]]))
        return made

    def _lstm(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Inputs: those of LSTM, its weights transposed, then scales and zero points of both."""
        w, r = self._scaled(node, 1, 8, 9), self._scaled(node, 2, 10, 11)
        if w is None or r is None:
            return None
        given = list(node.input[:8])
        given[1] = self._held(node, "w", w.transpose(0, 2, 1))
        given[2] = self._held(node, "r", r.transpose(0, 2, 1))
        made = helper.make_node("LSTM", given, list(node.output))
        made.attribute.extend(one for one in node.attribute if one.name in _LSTM_KEPT)
        return [made]

    def _scaled(self, node: onnx.NodeProto, value: int, scale: int, zero: int) -> Array | None:
        """Return what integer weights stand for; scales are per matrix, or per column of it."""
        values, scales = self._values(node, value), self._values(node, scale)
        has_zero = len(node.input) > zero and bool(node.input[zero])
        zeros = self._values(node, zero) if has_zero else np.uint8(0)
        if values is None or scales is None or zeros is None:
            return None
        steps, offsets = (_per_column(np.asarray(one), values) for one in (scales, zeros))
        real: Array = (values.astype(np.float32) - offsets.astype(np.float32)) * steps
        return real

    def _values(self, node: onnx.NodeProto, index: int) -> Array | None:
        tensor: Any = self._constants.get(node.input[index]) if index < len(node.input) else None
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def _held(self, node: onnx.NodeProto, what: str, values: Array) -> str:
        name = f"{node.output[0]}/{what}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _per_column(value: Array, matrix: Array) -> Array:
    """Return scales or zero points shaped to go with [..., rows, columns]."""
    if value.size == 1:
        return value.reshape(())
    if value.shape[-1] == matrix.shape[-1]:
        return value[..., None, :]
    return value.reshape([-1] + [1] * (matrix.ndim - 1))  # one per matrix
