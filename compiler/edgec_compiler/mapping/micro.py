"""What a TFLite Micro program needs beside the model: its bytes as C, the arena, the operators.

The arena is estimated as TFLite Micro's greedy planner lays out tensors (largest first, at the
lowest free place), with the scratch buffers of CMSIS-NN's convolutions and the interpreter's own
records on top. It is an estimate: a build reports the exact size by arena_used_bytes().

Source: tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc,
micro_mutable_op_resolver.h; CMSIS-NN arm_convolve_s8_get_buffer_size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from edgec_compiler.errors import NotAchievedError
from edgec_compiler.mapping.graph import ModelGraph, Operator

ALIGNMENT = 16
_BYTES = {
    "int4": 1, "int8": 1, "uint8": 1, "bool": 1, "int16": 2, "float16": 2, "int32": 4,
    "float32": 4, "uint32": 4, "int64": 8, "float64": 8, "uint64": 8,
}  # fmt: skip
# The interpreter's records on a 32-bit processor: TfLiteEvalTensor, node with registration, a
# kernel's own data, and multiplier and shift per output channel of a convolution.
_PER_TENSOR, _PER_OPERATOR, _PER_CHANNEL, _FIXED = 16, 128, 8, 2048
_MARGIN = 1.1
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
# Methods of MicroMutableOpResolver whose names do not follow from the operator's.
_METHODS = {
    "CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "AVERAGE_POOL_2D": "AveragePool2D",
    "MAX_POOL_2D": "MaxPool2D", "L2_POOL_2D": "L2Pool2D", "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM", "CUMSUM": "CumSum",
    "BATCH_MATMUL": "BatchMatMul", "TFLite_Detection_PostProcess": "DetectionPostprocess",
    "ethos-u": "EthosU",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lifetime:
    """One buffer: from operator `first` to operator `last`, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class MicroBuild:
    """C sources of one model. `arena_bytes` is an estimate."""

    arena_bytes: int
    operators: tuple[str, ...]
    source: bytes  # model_data.cc
    header: bytes  # model_data.h


def build_micro(payload: bytes, graph: ModelGraph, name: str) -> MicroBuild:
    """Return the C sources for a TFLite model.

    Raises:
        NotAchievedError: a tensor's size is not fixed, or its type is not one of TFLite Micro.
    """
    arena = arena_bytes(graph)
    operators = tuple(sorted({operator.op for operator in graph.operators}))
    return MicroBuild(arena, operators, _source(payload), _header(payload, name, arena, operators))


def arena_bytes(graph: ModelGraph) -> int:
    """Return the estimated size of the tensor arena."""
    planned = planned_bytes([*_lifetimes(graph), *_scratch(graph)])
    channels = sum(
        int(str(operator.facts.get("channels_out", 0)))
        for operator in graph.operators
        if operator.op in _CONVOLUTIONS
    )
    records = (
        _FIXED
        + _PER_TENSOR * len(graph.tensors)
        + _PER_OPERATOR * len(graph.operators)
        + _PER_CHANNEL * channels
    )
    return _aligned(int((planned + records) * _MARGIN))


def planned_bytes(lifetimes: Iterable[Lifetime]) -> int:
    """Return how much memory buffers need that may share places when they do not live together."""
    placed: list[tuple[int, Lifetime]] = []
    for buffer in sorted(lifetimes, key=lambda one: (-one.size, one.first)):
        neighbours = sorted(
            (offset, other.size)
            for offset, other in placed
            if other.first <= buffer.last and buffer.first <= other.last
        )
        place = 0
        for offset, size in neighbours:
            if place + buffer.size <= offset:
                break
            place = max(place, offset + size)
        placed.append((place, buffer))
    return max((offset + buffer.size for offset, buffer in placed), default=0)


def _lifetimes(graph: ModelGraph) -> list[Lifetime]:
    first = dict.fromkeys(graph.inputs, 0)
    last = dict.fromkeys(graph.inputs, 0)
    for operator in graph.operators:
        for tensor in operator.outputs:
            first.setdefault(tensor, operator.index)
        for tensor in (*operator.inputs, *operator.outputs):
            last[tensor] = operator.index
    end = len(graph.operators)
    last.update(dict.fromkeys(graph.outputs, end))
    found = []
    for index, start in first.items():
        held = graph.tensors[index]
        if held.constant:
            continue
        width = _BYTES.get(held.dtype)
        if width is None or not held.is_static:
            raise NotAchievedError(f"TFLite Micro needs fixed sizes and known types: {held}")
        found.append(Lifetime(_aligned(held.elements * width), start, last[index]))
    return found


def _scratch(graph: ModelGraph) -> list[Lifetime]:
    """Return CMSIS-NN's buffers: two columns of patches as 16-bit values per convolution."""
    return [
        Lifetime(_aligned(size), operator.index, operator.index)
        for operator in graph.operators
        if operator.op in _CONVOLUTIONS and (size := _columns(operator))
    ]


def _columns(operator: Operator) -> int:
    sides = [operator.facts.get(key) for key in ("kernel_h", "kernel_w", "channels_in")]
    if not all(isinstance(side, int) for side in sides):
        return 0
    height, width, channels = (int(str(side)) for side in sides)
    return 2 * 2 * height * width * channels


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def method(op: str) -> str:
    """Return the method of MicroMutableOpResolver that adds an operator: "AddConv2D"."""
    words = "".join(word.capitalize() for word in op.split("_"))
    return f"Add{_METHODS.get(op, words)}"


def _source(payload: bytes) -> bytes:
    rows = [
        "  " + ",".join(f"0x{byte:02x}" for byte in payload[start : start + 16]) + ","
        for start in range(0, len(payload), 16)
    ]
    text = "\n".join(
        [
            '#include "model_data.h"',
            "",
            f"alignas({ALIGNMENT}) const unsigned char edgec_model[] = {{",
            *rows,
            "};",
            "",
        ]
    )
    return text.encode()


def _header(payload: bytes, name: str, arena: int, operators: tuple[str, ...]) -> bytes:
    adds = [f"  if (resolver.{method(op)}() != kTfLiteOk) return kTfLiteError;" for op in operators]
    text = "\n".join(
        [
            f"// Model {name} for TFLite Micro.",
            "#pragma once",
            "",
            "#include <cstddef>",
            "",
            '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
            "",
            "extern const unsigned char edgec_model[];",
            f"constexpr std::size_t kEdgecModelBytes = {len(payload)};",
            "// An estimate: check it with MicroInterpreter::arena_used_bytes().",
            f"constexpr std::size_t kEdgecArenaBytes = {arena};",
            f"constexpr unsigned kEdgecOperators = {len(operators)};",
            "",
            "using EdgecResolver = tflite::MicroMutableOpResolver<kEdgecOperators>;",
            "",
            "inline TfLiteStatus AddEdgecOperators(EdgecResolver& resolver) {",
            *adds,
            "  return kTfLiteOk;",
            "}",
            "",
        ]
    )
    return text.encode()
