"""TFLite files as layers: convolutions, depthwise convolutions and fully connected layers.

Left alone, and so quantised as always: layers whose weights are computed, shared by two layers,
sparse, or not int8 with zero point 0; grouped weights in the shuffled format; transposed
convolutions.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from edgec_compiler import tflite
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

_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_SAME = 0  # schema.Padding.SAME
_DTYPES = {"float32": np.float32, "int8": np.int8, "int32": np.int32, "int64": np.int64}


@dataclass(frozen=True, slots=True)
class _Site:
    """An operator with weights and the numbers of its tensors."""

    op: str
    options: Any
    input: int
    weights: int
    bias: int | None
    output: int


def _sites(model: tflite.Flatbuffer) -> list[_Site]:
    graph = model.subgraphs[0]
    readers = Counter(
        graph.tensors[i].buffer for op in graph.operators for i in op.inputs if i >= 0
    )
    found = []
    for operator in graph.operators:
        name = tflite.op_name(model, operator)
        inputs = [int(index) for index in operator.inputs]
        if name not in _OPS or len(inputs) < 2:
            continue
        bias = inputs[2] if len(inputs) > 2 and inputs[2] >= 0 else None
        constants = [graph.tensors[i] for i in (inputs[1], bias) if i is not None]
        usable = all(tflite.is_constant(model, t) and t.sparsity is None for t in constants)
        alone = all(readers[tensor.buffer] == 1 for tensor in constants)
        plain = getattr(operator.builtinOptions, "weightsFormat", 0) == 0
        if usable and alone and plain:
            found.append(
                _Site(
                    name,
                    operator.builtinOptions,
                    inputs[0],
                    inputs[1],
                    bias,
                    int(operator.outputs[0]),
                )
            )
    return found


def _values(model: tflite.Flatbuffer, index: int) -> Array | None:
    tensor = model.subgraphs[0].tensors[index]
    dtype = _DTYPES.get(tflite.type_name(tensor))
    if dtype is None:
        return None
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
    shape = tuple(int(size) for size in tensor.shape)
    if len(data) != int(np.prod(shape)) * np.dtype(dtype).itemsize:
        return None
    return np.frombuffer(data, dtype).reshape(shape)


def _canonical(site: _Site, values: Array, groups: int) -> Array:
    """Return weights as [G, R, K]."""
    if site.op == "DEPTHWISE_CONV_2D":
        turned = values[0].transpose(2, 0, 1)  # channels, kh, kw
        return np.ascontiguousarray(turned).reshape(groups, -1, turned.shape[1] * turned.shape[2])
    return values.reshape(groups, values.shape[0] // groups, -1)


def _own_order(site: _Site, values: Array, shape: Sequence[int]) -> Array:
    """Return [G, R, K] in the order of the file; the inverse of `_canonical`."""
    if site.op == "DEPTHWISE_CONV_2D":
        _, kh, kw, channels = shape
        return np.ascontiguousarray(values.reshape(channels, kh, kw).transpose(1, 2, 0))[None]
    return values.reshape(tuple(shape))


def _groups(model: tflite.Flatbuffer, site: _Site) -> int:
    """Return the number of groups; 0 if the shapes make no sense together."""
    tensors = model.subgraphs[0].tensors
    shape, reads = tensors[site.weights].shape, tensors[site.input].shape
    if site.op == "FULLY_CONNECTED":
        return 1 if len(shape) == 2 else 0
    if len(shape) != 4 or reads is None or len(reads) != 4 or min(shape) < 1:
        return 0
    channels = int(reads[3])
    if site.op == "DEPTHWISE_CONV_2D":
        return channels if channels and shape[3] % channels == 0 else 0
    groups = channels // int(shape[3])
    return groups if channels % int(shape[3]) == 0 and shape[0] % max(1, groups) == 0 else 0


def _kernel(site: _Site, shape: Sequence[int]) -> tuple[int, int]:
    return (1, 1) if site.op == "FULLY_CONNECTED" else (int(shape[1]), int(shape[2]))


def _scales(tensor: Any) -> Array | None:
    """Return the scales of a tensor whose zero points are all 0, else None."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
        return None
    points = quantization.zeroPoint
    if points is not None and np.any(np.asarray(points)):
        return None
    return np.asarray(quantization.scale, np.float32)


def _activation_scale(model: tflite.Flatbuffer, index: int) -> np.float32 | None:
    tensor = model.subgraphs[0].tensors[index]
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    scale = np.float32(quantization.scale[0])
    return scale if scale > 0 else None


class TfliteLayers:
    """The int8 layers of a quantised TFLite file, and the file with other values in them."""

    def __init__(self, payload: bytes) -> None:
        """Read `payload`. Raises ModelFileError."""
        self._model = tflite.parse(payload, "the quantised model")
        self.layers: tuple[QuantisedLayer | None, ...] = ()
        self._sites = _sites(self._model)
        self.layers = tuple(self._layer(site) for site in self._sites)

    def _layer(self, site: _Site) -> QuantisedLayer | None:
        model, tensors = self._model, self._model.subgraphs[0].tensors
        groups = _groups(model, site)
        q, scales = _values(model, site.weights), _scales(tensors[site.weights])
        reads = _activation_scale(model, site.input)
        if groups < 1 or q is None or q.dtype != np.int8 or scales is None:
            return None
        if reads is None or not np.all(scales > 0):
            return None
        ordered = _canonical(site, q, groups)
        rows = ordered.shape[:2]
        if len(scales) not in (1, rows[0] * rows[1]):
            return None
        bias = None if site.bias is None else _values(model, site.bias)
        if site.bias is not None and (bias is None or bias.size != rows[0] * rows[1]):
            return None
        return QuantisedLayer(
            "",
            Signature(
                "dense" if site.op == "FULLY_CONNECTED" else "conv",
                (rows[0], rows[1], ordered.shape[2]),
                _kernel(site, tensors[site.weights].shape),
            ),
            ordered,
            np.broadcast_to(
                scales.reshape(-1, 1) if len(scales) == 1 else scales.reshape(rows), rows
            ).copy(),
            len(scales) == 1,
            reads,
            None if bias is None else bias.astype(np.int64).reshape(rows),
        )

    def with_values(self, values: Mapping[int, Values]) -> bytes:
        """Return the file with new constants in the layers that `values` numbers."""
        model = tflite.parse(tflite.serialise(self._model), "the quantised model")
        tensors = model.subgraphs[0].tensors
        for index, new in values.items():
            site, layer = self._sites[index], self.layers[index]
            if layer is None:
                raise ValueError(f"layer {index} is not int8")
            weights = tensors[site.weights]
            own = _own_order(site, new.q, [int(n) for n in weights.shape])
            _store(model, weights, own)
            scales = new.scales.reshape(-1)
            scales = scales[:1] if layer.per_tensor else scales
            weights.quantization.scale = np.ascontiguousarray(scales)
            if site.bias is not None and new.bias is not None:
                bias = tensors[site.bias]
                _store(model, bias, new.bias.reshape(-1).astype(_DTYPES[tflite.type_name(bias)]))
                bias.quantization.scale = layer.input_scale * scales
        return tflite.serialise(model)

    def with_ranges_of(self, deployed: "TfliteLayers", tolerance: float) -> bytes | None:
        """Return the file with the deployed ranges that are near; None if there are none."""
        tensors, others = self._model.subgraphs[0].tensors, deployed._model.subgraphs[0].tensors
        new = {i: one for i, t in enumerate(tensors) if (one := _range(self._model, t))}
        counterparts = _same_outputs(self._model, deployed._model)
        old = {i: _range(deployed._model, others[j]) for i, j in counterparts.items()}
        found = kept(new, {i: one for i, one in old.items() if one}, self._fixed(), tolerance)
        if not found:
            return None
        model = tflite.parse(tflite.serialise(self._model), "the quantised model")
        tensors = model.subgraphs[0].tensors
        for index, one in found.items():
            tensors[index].quantization.scale = np.array([one.scale], np.float32)
            tensors[index].quantization.zeroPoint = np.array([one.point], np.int64)
        for site, layer in zip(self._sites, self.layers, strict=True):
            if layer is None or layer.bias is None or site.input not in found:
                continue
            bias, scale = tensors[site.bias], found[site.input].scale
            moved = rescaled(layer.bias, layer.input_scale, scale).reshape(-1)
            _store(model, bias, moved.astype(_DTYPES[tflite.type_name(bias)]))
            wide = layer.scales.reshape(-1)[: 1 if layer.per_tensor else None]
            bias.quantization.scale = scale * wide
        return tflite.serialise(model)

    def _fixed(self) -> set[int]:
        """Return tensors that operators read or make whose integer constants depend on them."""
        free = {site.output for site, one in zip(self._sites, self.layers, strict=True) if one}
        graph = self._model.subgraphs[0]
        found: set[int] = set()
        for operator in graph.operators:
            around = [int(index) for index in (*operator.inputs, *operator.outputs) if index >= 0]
            scaled = (
                tflite.is_constant(self._model, graph.tensors[i])
                and graph.tensors[i].quantization is not None
                and graph.tensors[i].quantization.scale is not None
                for i in around
            )
            if any(scaled) and int(operator.outputs[0]) not in free:
                found.update(around)
        return found


def _range(model: tflite.Flatbuffer, tensor: Any) -> Range | None:
    """Return the range of an activation of integers; None for anything else."""
    quantization, dtype = tensor.quantization, tflite.type_name(tensor)
    if dtype not in ("int8", "uint8", "int16") or tflite.is_constant(model, tensor):
        return None
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    points = quantization.zeroPoint
    point = 0 if points is None or len(points) == 0 else int(points[0])
    return Range(np.float32(quantization.scale[0]), point, dtype)


def _same_outputs(new: tflite.Flatbuffer, old: tflite.Flatbuffer) -> dict[int, int]:
    """Return {tensor of the new model: its counterpart}: outputs of operators, and the inputs."""
    graphs = [new.subgraphs[0], old.subgraphs[0]]
    kinds = [
        [
            (
                tflite.op_name(model, operator),
                tuple(
                    (tflite.type_name(graph.tensors[i]), *map(int, graph.tensors[i].shape))
                    for i in operator.outputs
                    if graph.tensors[i].shape is not None
                ),
            )
            for operator in graph.operators
        ]
        for model, graph in zip((new, old), graphs, strict=True)
    ]
    found: dict[int, int] = {}
    if len(graphs[0].inputs) == len(graphs[1].inputs):
        ends = zip(graphs[0].inputs, graphs[1].inputs, strict=True)
        found |= {int(first): int(second) for first, second in ends}
    matcher = SequenceMatcher(None, kinds[0], kinds[1], autojunk=False)
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            both = [
                graph.operators[place + step].outputs
                for graph, place in zip(graphs, (block.a, block.b), strict=True)
            ]
            found |= {int(a): int(b) for a, b in zip(*both, strict=False)}
    return found


def _store(model: tflite.Flatbuffer, tensor: Any, values: Array) -> None:
    data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers[tensor.buffer].data = data.copy()


def _float_layer(model: tflite.Flatbuffer, site: _Site) -> FloatLayer | None:
    tensors = model.subgraphs[0].tensors
    groups = _groups(model, site)
    weights = _values(model, site.weights)
    if groups < 1 or weights is None or weights.dtype != np.float32:
        return None
    ordered = _canonical(site, weights, groups).astype(np.float64)
    bias = None if site.bias is None else _values(model, site.bias)
    window = None
    if site.op != "FULLY_CONNECTED":
        window = Window(
            _kernel(site, tensors[site.weights].shape),
            (int(site.options.strideH), int(site.options.strideW)),
            (int(site.options.dilationHFactor), int(site.options.dilationWFactor)),
            None if site.options.padding == _SAME else (0, 0, 0, 0),
        )
    return FloatLayer(
        ordered,
        None if bias is None else bias.astype(np.float64).reshape(ordered.shape[:2]),
        tflite.tensor_name(tensors[site.input]),
        window,
    )


class TfliteModel:
    """A float TFLite model and its ordinary int8 form, tensors named alike in both."""

    runtime = "litert"

    def __init__(self, exact: bytes, ordinary: bytes) -> None:
        """Read both files. Raises ModelFileError."""
        self.float_payload = exact
        self._float = tflite.parse(exact, "the float model")
        self._float_sites = _sites(self._float)
        self._quantised = TfliteLayers(ordinary)
        self.ordinary = self._quantised.layers
        found = tuple(_float_layer(self._float, site) for site in self._float_sites)
        fits = len(found) == len(self.ordinary)
        self.exact = found if fits else (None,) * len(self.ordinary)
        self.last = self._last() if fits else None

    def _last(self) -> int | None:
        """Return the number of the dense layer that makes the only output, without activation."""
        ends = [int(index) for index in self._float.subgraphs[0].outputs]
        for number, site in enumerate(self._float_sites):
            plain = getattr(site.options, "fusedActivationFunction", 0) == 0
            if site.op == "FULLY_CONNECTED" and ends == [site.output] and plain:
                return number
        return None

    def with_ranges_of(self, deployed: TfliteLayers, tolerance: float) -> "TfliteModel | None":
        """Return it with the deployed ranges that are near; None if there are none."""
        made = self._quantised.with_ranges_of(deployed, tolerance)
        return None if made is None else TfliteModel(self.float_payload, made)

    def with_values(self, values: Mapping[int, Values]) -> bytes:
        """Return the int8 file with new constants in the layers that `values` numbers."""
        return self._quantised.with_values(values)

    def float_with(self, index: int, weights: Floats) -> bytes:
        """Return the float file with other weights [G, R, K] in one layer."""
        site = self._float_sites[index]
        tensor = self._float.subgraphs[0].tensors[site.weights]
        before = self._float.buffers[tensor.buffer].data
        shape = [int(size) for size in tensor.shape]
        _store(self._float, tensor, _own_order(site, weights.astype(np.float32), shape))
        made = tflite.serialise(self._float)
        self._float.buffers[tensor.buffer].data = before
        return made

    def activations(
        self, names: Sequence[str], samples: Iterable[Mapping[str, Array]]
    ) -> Iterator[dict[str, Array]]:
        """Yield the float values of tensors, for one sample after the other."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keeping all tensors is what we are here for
            interpreter = Interpreter(
                model_content=self.float_payload,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
        interpreter.allocate_tensors()
        inputs = {one["name"]: one["index"] for one in interpreter.get_input_details()}
        places = {one["name"]: one["index"] for one in interpreter.get_tensor_details()}
        for sample in samples:
            for name, value in sample.items():
                interpreter.set_tensor(inputs[name], value)
            interpreter.reset_all_variables()
            interpreter.invoke()
            yield {name: interpreter.get_tensor(places[name]) for name in names}
