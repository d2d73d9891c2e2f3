"""Safe fixes of a TFLite file: each is proven to leave the outputs as they were, or dropped.

1. Quantisation that the schema forbids is put right, such as a quantized_dimension that is none of
   the tensor's (newer runtimes refuse the file).
2. A resize of a single pixel becomes a repetition of it: the operator for that which the target
   takes (TILE, else RESIZE_NEAREST_NEIGHBOR).
3. Operators that change nothing are taken out: a resize to the same size, a requantisation to the
   same scale, a transposition that keeps the order.
4. Paddings get the form that the target takes (`edgec_compiler.convert.paddings`): 32 bits, and PAD
   for a PADV2 that pads with the zero point.

Left alone: whatever would change a rounding, the model's inputs and outputs, or its interface.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.convert.paddings import narrow_paddings, pad_with_zero_point
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.tflite_quantisation import repair
from edgec_compiler.mapping.opening import read_bytes
from edgec_compiler.mapping.proof import Proof, prove
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import Profile

Model: TypeAlias = tflite.Flatbuffer
_RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A rewritten model. `proven` is the number of inputs on which its outputs were compared."""

    payload: bytes
    done: tuple[str, ...]
    proven: int
    dropped: tuple[str, ...] = ()


def rewrite_model(model: str, profile: Profile) -> Rewriting:
    """Return a TFLite file or bundle's model with all safe fixes for `profile`.

    Raises:
        UsageError: not a TFLite model.
        ModelFileError: damaged.
    """
    fmt, payload = read_bytes(model)
    if fmt != "tflite":
        raise UsageError(
            f"{model}: --rewrite changes TFLite models only, not {fmt}: compile it for the target, "
            "and give the bundle"
        )
    return rewrite(payload, profile, model)


def rewrite(payload: bytes, profile: Profile, origin: str) -> Rewriting:
    """Return the model in `payload` with all safe fixes; `origin` names it in messages."""
    read_tflite(payload, origin)  # within bounds, before anything else looks at it
    done: list[str] = []
    dropped: list[str] = []
    proven = 0
    for fix in (_quantisation, _single_pixels(profile), _identities, *_paddings(profile)):
        candidate = tflite.parse(payload, origin)
        told = fix(candidate)
        if not told:
            continue
        changed = tflite.serialise(candidate)
        proof = _judge(payload, changed, metadata_only=fix is _quantisation)
        if proof.equal:
            payload, proven = changed, proof.inputs
            done += told
        else:
            dropped += [f"{one}: {proof.problem}" for one in told]
    return Rewriting(payload, tuple(done), proven, tuple(dropped))


def _judge(before: bytes, after: bytes, *, metadata_only: bool) -> Proof:
    """Prove that two models are equal; one that the runtime refused need only run afterwards."""
    proof = prove(before, after)
    if metadata_only and proof.first_refused:
        return prove(after, after)
    return proof


def _quantisation(model: Model) -> list[str]:
    return list(repair(model, "the model"))


def _paddings(profile: Profile) -> list[Callable[[Model], list[str]]]:
    """Return the fixes of paddings; a target that takes PADV2 needs none."""
    support = profile.support
    known = None if support is None else support.operators.get("PADV2")
    strict = support is not None and (known is None or not known.supported)
    return [narrow_paddings, pad_with_zero_point] if strict else []


def _single_pixels(profile: Profile) -> Callable[[Model], list[str]]:
    support = profile.support
    taken = support is None or "TILE" in support.operators
    repeat = _to_tile if taken else _to_nearest

    def fix(model: Model) -> list[str]:
        graph = model.subgraphs[0]
        told = []
        for index, operator in enumerate(graph.operators):
            if tflite.op_name(model, operator) != "RESIZE_BILINEAR":
                continue
            old, new = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
            sizes = _shape(old), _shape(new)
            if [len(one) for one in sizes] != [4, 4] or sizes[0][1:3] != [1, 1]:
                continue
            if sizes[1][1:3] == [1, 1] or tflite.quantisation(old) != tflite.quantisation(new):
                continue
            op = repeat(model, operator, sizes[1])
            told.append(
                f"operator {index}, RESIZE_BILINEAR making '{tflite.tensor_name(new)}' of one "
                f"pixel, became {op}"
            )
        return told

    return fix


def _to_tile(model: Model, operator: Any, shape: list[int]) -> str:
    operator.opcodeIndex = tflite.operator_code(model, schema.BuiltinOperator.TILE, 1)
    operator.builtinOptionsType = schema.BuiltinOptions.TileOptions
    operator.builtinOptions = schema.TileOptionsT()
    repeats = np.array([1, shape[1], shape[2], 1], np.int32)
    operator.inputs = [operator.inputs[0], tflite.add_integers(model, repeats)]
    return "TILE"


def _to_nearest(model: Model, operator: Any, shape: list[int]) -> str:
    old = model.subgraphs[0].tensors[operator.inputs[0]]
    version = 2 if tflite.type_name(old) == "int8" else 1
    operator.opcodeIndex = tflite.operator_code(
        model, schema.BuiltinOperator.RESIZE_NEAREST_NEIGHBOR, version
    )
    operator.builtinOptionsType = schema.BuiltinOptions.ResizeNearestNeighborOptions
    operator.builtinOptions = schema.ResizeNearestNeighborOptionsT()
    return "RESIZE_NEAREST_NEIGHBOR"


def _identities(model: Model) -> list[str]:
    graph = model.subgraphs[0]
    outputs = {int(tensor) for tensor in graph.outputs}
    kept: list[Any] = []
    told: list[str] = []
    instead: dict[int, int] = {}
    for index, operator in enumerate(graph.operators):
        operator.inputs = [instead.get(int(i), int(i)) for i in operator.inputs]
        op = tflite.op_name(model, operator)
        if _changes_nothing(model, operator, op) and int(operator.outputs[0]) not in outputs:
            instead[int(operator.outputs[0])] = operator.inputs[0]
            name = tflite.tensor_name(graph.tensors[operator.outputs[0]])
            told.append(f"operator {index}, {op} making '{name}', changed nothing: taken out")
        else:
            kept.append(operator)
    graph.operators = kept
    return told


def _changes_nothing(model: Model, operator: Any, op: str) -> bool:
    if op not in (*_RESIZES, "QUANTIZE", "TRANSPOSE"):
        return False
    graph = model.subgraphs[0]
    old, new = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
    if (
        old.type != new.type
        or _shape(old) != _shape(new)
        or tflite.quantisation(old) != tflite.quantisation(new)
    ):
        return False
    if op == "TRANSPOSE":
        data = model.buffers[graph.tensors[operator.inputs[1]].buffer].data
        order = [] if data is None else np.frombuffer(bytes(data), np.int32).tolist()
        return order == list(range(len(order))) and bool(order)
    return not tflite.is_constant(model, old)


def _shape(tensor: Any) -> list[int]:
    return [int(size) for size in ([] if tensor.shape is None else tensor.shape)]
