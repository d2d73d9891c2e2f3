"""What one operator costs on any machine: multiply-accumulates, elements, bytes moved.

Counted from shapes and types alone. Pairs of Q and DQ in an ONNX file are taken as what runtimes
make of them: nothing, and an integer operator between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from edgec_compiler.mapping.graph import ModelGraph, Operator, Tensor

_BITS = {"int4": 4, "uint4": 4, "bool": 8, "float16": 16, "bfloat16": 16, "int16": 16, "uint16": 16}
_BITS |= {"int8": 8, "uint8": 8, "float32": 32, "int32": 32, "uint32": 32, "float64": 64}
_BITS |= {"int64": 64, "uint64": 64, "int2": 2}
_COMPUTED = {"int8": "int8", "uint8": "int8", "int4": "int8", "int16": "int16", "float16": "fp16"}
_FREE = frozenset(
    {
        *("RESHAPE", "Reshape", "SQUEEZE", "Squeeze", "EXPAND_DIMS", "Unsqueeze", "Flatten"),
        *("Identity", "Dropout", "SHAPE", "Shape", "Constant", "ConstantOfShape"),
    }
)
# Operators whose value per element takes a polynomial or a table: so many multiply-accumulates.
_STEEP = frozenset(
    {
        *("LOGISTIC", "Sigmoid", "TANH", "Tanh", "EXP", "Exp", "SOFTMAX", "Softmax", "LOG_SOFTMAX"),
        *("GELU", "Gelu", "com.microsoft.Gelu", "HARD_SWISH", "HardSwish", "ELU", "Elu", "Erf"),
        *("LOG", "Log", "SQRT", "Sqrt", "RSQRT", "POW", "Pow", "DIV", "Div", "SIN", "COS"),
        *("LayerNormalization", "InstanceNormalization", "L2_NORMALIZATION"),
    }
)
_STEEP_MACS = 8
_QUANTISE, _DEQUANTISE = ("QuantizeLinear",), ("DequantizeLinear", "DEQUANTIZE")


@dataclass(frozen=True, slots=True)
class Cost:
    """One operator's work. `kind` says how well a machine's peak can be used for it."""

    kind: str  # "dense" | "depthwise" | "element" | "free"
    dtype: str  # what is multiplied: "fp32" | "fp16" | "int8" | "int16"
    macs: int  # multiply-accumulates, or values made where there are none
    weight_bytes: int
    moved_bytes: int  # inputs, outputs and weights, each once


def tensor_bytes(tensor: Tensor) -> int:
    """Return the size of a tensor, a free size taken as 1; 0 if its shape is not known."""
    return (_elements(tensor) * _BITS.get(tensor.dtype, 32) + 7) // 8


def _elements(tensor: Tensor) -> int:
    return 0 if tensor.shape is None else prod(max(size, 1) for size in tensor.shape)


def costs_of(graph: ModelGraph) -> tuple[Cost, ...]:
    """Return what each operator of `graph` costs, in its order."""
    stored = _stored(graph)
    quantised = _QuantisedPairs(graph)
    return tuple(_cost(graph, operator, stored, quantised) for operator in graph.operators)


def live_bytes(graph: ModelGraph) -> tuple[int, ...]:
    """Return how many bytes of activations live while each operator runs, in order.

    An operator's inputs and outputs live together, and a tensor until its last reader has run;
    nothing is computed in place. Q and DQ that vanish are left out: the tensors around them are one
    tensor of integers.
    """
    pairs = _QuantisedPairs(graph)
    same: dict[int, int] = {}  # tensor -> the integers that stand for it
    for operator in graph.operators:
        if pairs.vanishes(operator) and operator.op in _QUANTISE:
            same[operator.inputs[0]] = operator.outputs[0]
    for operator in graph.operators:
        if pairs.vanishes(operator) and operator.op in _DEQUANTISE:
            same[operator.outputs[0]] = operator.inputs[0]
    work = [operator for operator in graph.operators if not pairs.vanishes(operator)]
    last = {same.get(t, t): step for step, operator in enumerate(work) for t in operator.inputs}
    last |= {same.get(t, t): len(work) for t in graph.outputs}
    living = {same.get(t, t) for t in graph.inputs}
    found = []
    for step, operator in enumerate(work):
        living |= {same.get(t, t) for t in operator.outputs}
        held = (graph.tensors[t] for t in living)
        found.append(sum(tensor_bytes(tensor) for tensor in held if not tensor.constant))
        living = {t for t in living if last.get(t, -1) > step}
    return tuple(found)


class _QuantisedPairs:
    """Which Q and DQ operators of a graph vanish into the operators around them."""

    def __init__(self, graph: ModelGraph) -> None:
        makers = {t: op for op in graph.operators for t in op.outputs}
        users: dict[int, list[Operator]] = {}
        for operator in graph.operators:
            for tensor in operator.inputs:
                users.setdefault(tensor, []).append(operator)
        self._gone = set[int]()
        for operator in graph.operators:
            source = operator.inputs[0] if operator.inputs else -1
            if operator.op in _DEQUANTISE:
                constant = source >= 0 and graph.tensors[source].constant
                if constant or (source in makers and makers[source].op in _QUANTISE):
                    self._gone.add(operator.index)
            elif operator.op in _QUANTISE:
                followers = users.get(operator.outputs[0], [])
                if followers and all(one.op in _DEQUANTISE for one in followers):
                    self._gone.add(operator.index)

    def vanishes(self, operator: Operator) -> bool:
        return operator.index in self._gone


def _stored(graph: ModelGraph) -> Mapping[int, Tensor]:
    """Return for each tensor that a DQ of an ONNX file makes the integers that it stands for."""
    found: dict[int, Tensor] = {}
    for operator in graph.operators:
        if operator.op == "DequantizeLinear" and operator.inputs and operator.outputs:
            source, made = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
            shape = made.shape if made.shape is not None else source.shape
            found[operator.outputs[0]] = Tensor(made.name, source.dtype, shape, source.constant)
    return found


def _cost(
    graph: ModelGraph, operator: Operator, stored: Mapping[int, Tensor], pairs: _QuantisedPairs
) -> Cost:
    inputs = [stored.get(i, graph.tensors[i]) for i in operator.inputs]
    outputs = list(graph.results(operator))
    first = next((t for t in inputs if not t.constant), inputs[0] if inputs else None)
    dtype = _COMPUTED.get(first.dtype if first is not None else "", "fp32")
    if pairs.vanishes(operator) or operator.op in _FREE:
        return Cost("free", dtype, 0, 0, 0)
    kind, macs = _work(operator, inputs, outputs)
    weights = sum(tensor_bytes(t) for t in inputs if t.constant)
    integer = dtype == "int8" and graph.format == "onnx"
    made = sum(_elements(t) if integer else tensor_bytes(t) for t in outputs)
    moved = weights + made + sum(tensor_bytes(t) for t in inputs if not t.constant)
    return Cost(kind, dtype, macs, weights, moved)


def _work(operator: Operator, inputs: list[Tensor], outputs: list[Tensor]) -> tuple[str, int]:
    """Return the kind of work and its multiply-accumulates."""
    out = _elements(outputs[0]) if outputs else 0
    weights = (inputs[1].shape or ()) if len(inputs) > 1 else ()
    match operator.op:
        case "CONV_2D" | "CONV_3D":
            return "dense", out * prod(weights[1:])
        case "Conv" | "ConvInteger" | "QLinearConv":
            depthwise = len(weights) > 2 and weights[1] == 1 and operator.facts.get("group", 1) != 1
            return ("depthwise" if depthwise else "dense"), out * prod(weights[1:])
        case "DEPTHWISE_CONV_2D":
            return "depthwise", out * prod(weights[1:3])
        case "TRANSPOSE_CONV" if len(inputs) > 2:
            return "dense", _elements(inputs[2]) * prod(weights[:3])
        case "ConvTranspose":
            return "dense", _elements(inputs[0]) * prod(weights[1:])
        case "FULLY_CONNECTED" | "Gemm":
            columns = (outputs[0].shape or (1,))[-1] if outputs else 1
            return "dense", out // max(columns, 1) * prod(weights)
        case "BATCH_MATMUL" | "MatMul" | "MatMulInteger":
            sizes = inputs[0].shape or (0,)
            depth = sizes[-2] if operator.facts.get("adj_x") is True else sizes[-1]
            return "dense", out * depth
        case "LSTM" | "GRU" | "RNN" if len(inputs) > 2:
            steps = prod((inputs[0].shape or (0, 0))[:2])
            return "dense", steps * (_elements(inputs[1]) + _elements(inputs[2]))
        case "UNIDIRECTIONAL_SEQUENCE_LSTM" | "UNIDIRECTIONAL_SEQUENCE_RNN":
            steps = prod((inputs[0].shape or (0,))[:-1])
            return "dense", steps * sum(_elements(t) for t in inputs if len(t.shape or ()) == 2)
    return "element", _element_work(operator, inputs, out)


def _element_work(operator: Operator, inputs: list[Tensor], out: int) -> int:
    kernel = [operator.facts.get(name) for name in ("kernel_h", "kernel_w")]
    if "POOL" in operator.op.upper() and all(type(size) is int for size in kernel):
        return out * prod(size for size in kernel if type(size) is int)
    touched = max(out, max((_elements(t) for t in inputs if not t.constant), default=0))
    return touched * (_STEEP_MACS if operator.op in _STEEP else 1)
