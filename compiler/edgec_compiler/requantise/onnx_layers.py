"""ONNX Q/DQ files as layers: Conv (1-D and 2-D), Gemm, and MatMul with constant weights.

Left alone, and so quantised as always: layers whose weights are computed, shared by two layers, or
not int8 with zero point 0; Gemm with a factor or a transposed input; 3-D and transposed
convolutions.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgec_compiler.convert.to_onnx import serialise
from edgec_compiler.requantise.layer import (
    Array,
    FloatLayer,
    Floats,
    QuantisedLayer,
    Signature,
    Values,
    Window,
)
from edgec_compiler.requantise.ranges import Range, kept, rescaled

_OPS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class _Site:
    """A node with weights, and whether its constants lie transposed ([K, N])."""

    op: str
    node: Any
    attributes: dict[str, Any]

    @property
    def turned(self) -> bool:
        return self.op == "MatMul" or (self.op == "Gemm" and not self.attributes.get("transB", 0))

    @property
    def groups(self) -> int:
        return int(self.attributes.get("group", 1)) if self.op == "Conv" else 1


@dataclass(frozen=True, slots=True)
class _Coded:
    """The initializers behind one DequantizeLinear."""

    values: str
    scale: str
    point: str | None


def _sites(model: onnx.ModelProto) -> list[_Site]:
    found = []
    for node in model.graph.node:
        if node.op_type not in _OPS or node.domain not in ("", "ai.onnx"):
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0
        if plain and not attributes.get("transA", 0):
            found.append(_Site(node.op_type, node, attributes))
    return found


def _canonical(site: _Site, values: Array) -> Array | None:
    """Return weights as [G, R, K], or None for a kind that is left alone."""
    if site.op != "Conv":
        if values.ndim != 2:
            return None
        return np.ascontiguousarray(values.T if site.turned else values)[None]
    if values.ndim not in (3, 4) or values.shape[0] % max(1, site.groups):
        return None
    images = values.reshape(*values.shape[:2], -1, values.shape[-1])  # 1-D: one row high
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return turned.reshape(site.groups, values.shape[0] // site.groups, -1)


def _own_order(site: _Site, values: Array, shape: Sequence[int]) -> Array:
    """Return [G, R, K] in the order of the file; the inverse of `_canonical`."""
    if site.op != "Conv":
        return np.ascontiguousarray(values[0].T if site.turned else values[0])
    high, wide = (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])
    turned = values.reshape(shape[0], high, wide, shape[1]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(turned).reshape(tuple(shape))


def _kernel(site: _Site, shape: Sequence[int]) -> tuple[int, int]:
    if site.op != "Conv":
        return (1, 1)
    return (1, int(shape[2])) if len(shape) == 3 else (int(shape[2]), int(shape[3]))


class OnnxLayers:
    """The int8 layers of a Q/DQ model, and the model with other values in them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers = Counter(name for node in model.graph.node for name in node.input)
        self._found = [self._read(site) for site in _sites(model)]
        self.layers: tuple[QuantisedLayer | None, ...] = tuple(
            None if one is None else one[0] for one in self._found
        )

    def _read(self, site: _Site) -> tuple[QuantisedLayer, _Site, _Coded, _Coded | None] | None:
        node = site.node
        weights = self._coded(node.input[1])
        reads = self._scale_in(node.input[0])
        if weights is None or reads is None:
            return None
        values = self._array(weights.values)
        ordered = None if values.dtype != np.int8 else _canonical(site, values)
        scales = self._array(weights.scale).astype(np.float32).reshape(-1)
        if ordered is None or not np.all(scales > 0) or not self._centred(weights):
            return None
        rows = ordered.shape[:2]
        bias = self._coded(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if len(node.input) > 2 and node.input[2] and bias is None:
            return None
        if len(scales) not in (1, rows[0] * rows[1]):
            return None
        layer = QuantisedLayer(
            weights.values,
            Signature(
                "conv" if site.op == "Conv" else "dense",
                (rows[0], rows[1], ordered.shape[2]),
                _kernel(site, values.shape),
            ),
            ordered,
            np.broadcast_to(scales.reshape(rows) if len(scales) > 1 else scales, rows).copy(),
            len(scales) == 1,
            reads,
            None if bias is None else self._array(bias.values).astype(np.int64).reshape(rows),
        )
        return layer, site, weights, bias

    def _coded(self, name: str) -> _Coded | None:
        """Return what lies behind `name` if it is a dequantised constant that nobody shares."""
        node = self._makers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or self._readers[name] != 1:
            return None
        inputs = [*node.input, None][:3]
        if any(n and (n not in self._constants or self._readers[n] != 1) for n in inputs):
            return None
        return _Coded(inputs[0], inputs[1], inputs[2] or None)

    def _centred(self, coded: _Coded) -> bool:
        return coded.point is None or not np.any(self._array(coded.point))

    def _scale_in(self, name: str) -> np.float32 | None:
        node = self._makers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return self._scalar(node.input[1])

    def _scalar(self, name: str) -> np.float32 | None:
        if name not in self._constants:
            return None
        values = self._array(name)
        return np.float32(values.reshape(-1)[0]) if values.size == 1 else None

    def _array(self, name: str) -> Array:
        found: Array = numpy_helper.to_array(self._constants[name])
        return found

    def with_ranges_of(self, deployed: "OnnxLayers", tolerance: float) -> onnx.ModelProto | None:
        """Return the model with the deployed ranges that are near; None if there are none."""
        new, old = self._ranges(), deployed._ranges()
        found = kept(new, old, (), tolerance)
        if not found:
            return None
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for (scale, point), one in found.items():
            _set(constants[scale], np.array(one.scale, np.float32))
            _set(constants[point], np.array(one.point, one.dtype))
        moved = {scale: one.scale for (scale, _), one in found.items()}
        for layer, site, _, bias in (one for one in self._found if one is not None):
            after = moved.get(self._makers[site.node.input[0]].input[1])
            if after is None or bias is None or layer.bias is None:
                continue
            values = rescaled(layer.bias, layer.input_scale, after).astype(np.int32)
            _set(constants[bias.values], values.reshape(-1))
            wide = layer.scales.reshape(-1)[: self._array(bias.scale).size]
            _set(constants[bias.scale], after * wide)
        return model

    def _ranges(self) -> dict[tuple[str, str], Range]:
        """Return {(scale, zero point): range} of activations, by names of initializers."""
        found = {}
        for node in self._model.graph.node:
            if node.op_type != "QuantizeLinear" or len(node.input) < 3:
                continue
            names = (node.input[1], node.input[2])
            if not all(name in self._constants for name in names):
                continue
            scale, point = (self._array(name) for name in names)
            if scale.size == point.size == 1 and scale.dtype == np.float32:
                step, zero = np.float32(scale.reshape(-1)[0]), int(point.reshape(-1)[0])
                found[names] = Range(step, zero, str(point.dtype))
        return found

    def with_values(self, values: Mapping[int, Values]) -> onnx.ModelProto:
        """Return the model with new constants in the layers that `values` numbers."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}

        def store(name: str, array: Array) -> None:
            _set(constants[name], array)

        for index, new in values.items():
            found = self._found[index]
            if found is None:
                raise ValueError(f"layer {index} is not int8")
            layer, site, weights, bias = found
            scales = new.scales.reshape(-1)
            scales = scales[:1] if layer.per_tensor else scales
            store(weights.values, _own_order(site, new.q, constants[weights.values].dims))
            store(weights.scale, scales)
            if bias is not None and new.bias is not None:
                store(bias.values, new.bias.astype(np.int32))
                shared = constants[bias.scale].dims != [] and len(scales) == 1
                wide = np.broadcast_to(scales, new.bias.size) if shared else scales
                store(bias.scale, layer.input_scale * wide)
        return model


def _set(tensor: onnx.TensorProto, values: Array) -> None:
    """Give an initializer other values; its shape stays."""
    shaped = np.ascontiguousarray(values).reshape(tuple(tensor.dims))
    tensor.CopyFrom(numpy_helper.from_array(shaped, tensor.name))


def _float_layer(site: _Site, constants: Mapping[str, Any]) -> FloatLayer | None:
    node = site.node
    has_bias = len(node.input) > 2 and bool(node.input[2])
    if node.input[1] not in constants or (has_bias and node.input[2] not in constants):
        return None
    values = numpy_helper.to_array(constants[node.input[1]])
    ordered = _canonical(site, values)
    if ordered is None or values.dtype != np.float32:
        return None
    bias = numpy_helper.to_array(constants[node.input[2]]) if has_bias else None
    if bias is not None and bias.size != ordered.shape[0] * ordered.shape[1]:
        return None
    window = _window(site, values.shape) if site.op == "Conv" else None
    if site.op == "Conv" and window is None:
        return None
    shape = ordered.shape[:2]
    return FloatLayer(
        ordered.astype(np.float64),
        None if bias is None else bias.astype(np.float64).reshape(shape),
        node.input[0],
        window,
        channels_first=True,
    )


def _window(site: _Site, shape: Sequence[int]) -> Window | None:
    """Return the window of a Conv, 1-D as one row high; None where padding is not explicit."""
    given = site.attributes
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID", ""):
        return None
    if len(shape) == 3:
        step, gap = given.get("strides", [1])[0], given.get("dilations", [1])[0]
        first, last = given.get("pads", [0, 0])
        return Window(_kernel(site, shape), (1, step), (1, gap), (0, first, 0, last))
    steps, gaps = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    pads = given.get("pads", [0, 0, 0, 0])
    return Window(_kernel(site, shape), tuple(steps), tuple(gaps), tuple(pads))


class OnnxModel:
    """A float ONNX model and its ordinary Q/DQ form, initializers named alike in both."""

    runtime = "onnxruntime"

    def __init__(self, exact: onnx.ModelProto, ordinary: onnx.ModelProto) -> None:
        self._float = exact
        self._quantised = OnnxLayers(ordinary)
        self.float_payload: bytes = serialise(exact)
        self.ordinary = self._quantised.layers
        self._constants = {tensor.name: tensor for tensor in exact.graph.initializer}
        by_weights: dict[str, _Site] = {}
        for site in _sites(exact):
            by_weights.setdefault(site.node.input[1], site)
        names = [
            "" if one is None else one.name.removesuffix("_quantized") for one in self.ordinary
        ]
        self._float_sites = [by_weights.get(name) for name in names]
        self.exact = tuple(
            None if site is None else _float_layer(site, self._constants)
            for site in self._float_sites
        )
        self.last = self._last()

    def _last(self) -> int | None:
        """Return the number of the dense layer that makes the model's only output."""
        ends = [output.name for output in self._float.graph.output]
        for number, site in enumerate(self._float_sites):
            if site is not None and site.op == "Gemm" and ends == list(site.node.output):
                return number
        return None

    def with_ranges_of(self, deployed: OnnxLayers, tolerance: float) -> "OnnxModel | None":
        """Return it with the deployed ranges that are near; None if there are none."""
        made = self._quantised.with_ranges_of(deployed, tolerance)
        return None if made is None else OnnxModel(self._float, made)

    def with_values(self, values: Mapping[int, Values]) -> bytes:
        """Return the Q/DQ file with new constants in the layers that `values` numbers."""
        return serialise(self._quantised.with_values(values))

    def float_with(self, index: int, weights: Floats) -> bytes:
        """Return the float file with other weights [G, R, K] in one layer."""
        site = self._float_sites[index]
        if site is None:
            raise ValueError(f"layer {index} has no float form")
        name = site.node.input[1]
        before = onnx.TensorProto()
        before.CopyFrom(self._constants[name])
        own = _own_order(site, weights.astype(np.float32), before.dims)
        self._constants[name].CopyFrom(numpy_helper.from_array(own, name))
        made = serialise(self._float)
        self._constants[name].CopyFrom(before)
        return made

    def activations(
        self, names: Sequence[str], samples: Iterable[Mapping[str, Array]]
    ) -> Iterator[dict[str, Array]]:
        """Yield the float values of tensors, for one sample after the other."""
        import onnxruntime

        copy = onnx.ModelProto()
        copy.CopyFrom(self._float)
        del copy.graph.output[:]
        inputs = {value.name for value in copy.graph.input}
        made = [name for name in dict.fromkeys(names) if name not in inputs]
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for sample in samples:
            values = dict(zip(made, session.run(made, dict(sample)), strict=True)) if made else {}
            yield values | {name: sample[name] for name in names if name in inputs}
