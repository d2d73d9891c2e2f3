"""What makes an ONNX file of no use to anyone: told when it is read, by every command.

Every value is made once, before it is read; sizes are positive or free (-1 and names among them);
constants fill their shapes. Whether operators are known and fit their inputs is told at import.
"""

import math
from collections.abc import Iterable, Sequence

import onnx

from edgec_compiler.errors import ModelFileError

_FREE = -1  # how some exporters write a free axis


def refuse_unsound(model: onnx.ModelProto) -> None:
    """Return if the model's graph holds together, its nodes in order.

    Raises:
        ModelFileError: it does not.
    """
    graph = model.graph
    for value in graph.input:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if any(size < _FREE for size in sizes):
            raise ModelFileError(f"input '{value.name}' has a negative size in shape {sizes}")
    _walk(graph, set())
    for function in model.functions:
        _follow(function.node, list(function.input), function.output, f"function {function.name}")


def _walk(graph: onnx.GraphProto, outside: set[str]) -> None:
    for tensor in graph.initializer:
        _refuse_misfit(tensor)
    held = {one.name for one in graph.initializer}  # which some files hold twice, for no harm
    held |= {one.values.name for one in graph.sparse_initializer}
    known = [*held, *(value.name for value in graph.input if value.name not in held)]
    _follow(graph.node, known, [value.name for value in graph.output], "the graph", outside)


def _follow(
    nodes: Iterable[onnx.NodeProto],
    given: Sequence[str],
    wanted: Iterable[str],
    where: str,
    outside: Iterable[str] = (),
) -> None:
    """Refuse what is read before it is made, made twice, or wanted in vain."""
    own: set[str] = set()
    for name in given:
        _add(name, own)
    known = own | set(outside)
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                raise ModelFileError(
                    f"operator {node.op_type}: nothing makes its input '{name}' before it"
                )
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _walk(body, known)
        for name in filter(None, node.output):
            _add(name, own)
            known.add(name)
    for name in wanted:
        if name not in known:
            raise ModelFileError(f"nothing makes {where}'s output '{name}'")


def _add(name: str, known: set[str]) -> None:
    if name in known:
        raise ModelFileError(f"'{name}' is made twice")
    known.add(name)


def _refuse_misfit(tensor: onnx.TensorProto) -> None:
    if any(size < 0 for size in tensor.dims):
        raise ModelFileError(f"tensor '{tensor.name}' has a negative size in {list(tensor.dims)}")
    if not tensor.HasField("raw_data") or not tensor.raw_data:
        return  # stored as numbers, or in another file
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        return  # a type that is refused by its name where it is used
    bits = _BITS.get(tensor.data_type, 8 * kind.itemsize)
    if len(tensor.raw_data) != -(-math.prod(tensor.dims) * bits // 8):
        raise ModelFileError(f"tensor '{tensor.name}': its data does not fill its shape")


_BITS: dict[int, int] = {
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.UINT2: 2,
    onnx.TensorProto.INT2: 2,
}
