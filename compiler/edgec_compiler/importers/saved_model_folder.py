"""What lies in a SavedModel folder, read with TensorFlow's own classes; nothing of it is run."""

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgec_compiler.errors import MissingExtraError, ModelFileError

Proto = Any  # of TensorFlow's generated classes

_MAX_BYTES = (2 << 30) - 1  # of one protobuf message
_MAX_FILES = 10_000
_SERVING = "serving_default"
_INITIALISER = "__saved_model_init_op"  # written as a signature, and none
# Nodes that hold a graph together, and would be no operators of a model.
_PLUMBING = (
    *("Const", "Identity", "NoOp", "Placeholder", "ReadVariableOp", "VarHandleOp", "Variable"),
    *("VariableV2", "PartitionedCall", "StatefulPartitionedCall", "DisableCopyOnRead"),
)


def load_tensorflow(path: Path) -> Any:
    """Return the module of TensorFlow. Raises MissingExtraError."""
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("tensorflow", f"{path}: a SavedModel; reading it")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    return importlib.import_module("tensorflow")


def digest_of(path: Path) -> tuple[str, int]:
    """Return the sha256 and size of a folder's files with their names, in order."""
    digest, size = hashlib.sha256(), 0
    files = sorted(one for one in path.rglob("*") if one.is_file())
    if len(files) > _MAX_FILES:
        raise ModelFileError(f"{path}: holds {len(files)} files, more than any SavedModel needs")
    for file in files:
        payload = file.read_bytes()
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(payload).digest())
        size += len(payload)
    return digest.hexdigest(), size


def read_proto(path: Path) -> Proto:
    """Return the message in a SavedModel folder. Raises ModelFileError."""
    load_tensorflow(path)
    protos: Any = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")
    file = path / "saved_model.pb"
    if file.stat().st_size > _MAX_BYTES:
        raise ModelFileError(f"{file}: larger than 2 GiB, which no SavedModel can be")
    try:
        proto = protos.SavedModel.FromString(file.read_bytes())
    except Exception as error:  # which class, depends on how protobuf was built
        raise ModelFileError(f"{file}: a damaged SavedModel: {error}") from error
    if not proto.meta_graphs:
        raise ModelFileError(f"{file}: a damaged SavedModel: it holds no graph")
    return proto


def nodes_of(graph: Proto) -> Iterator[Proto]:
    """Yield every node of a MetaGraphDef, its functions' included."""
    yield from graph.graph_def.node
    for function in graph.graph_def.library.function:
        yield from function.node_def


def chosen(names: list[str], path: Path) -> str:
    """Return the signature to compile. Raises ModelFileError: none, or it is not clear which."""
    if not names:
        raise ModelFileError(
            f"{path}: has no signature, so its inputs are not known: save it with one "
            "(tf.saved_model.save(module, folder, signatures=function))"
        )
    if _SERVING in names:
        return _SERVING
    if len(names) > 1:
        raise ModelFileError(
            f"{path}: has the signatures {', '.join(sorted(names))}, and none is {_SERVING}: save "
            "the one to be compiled alone (tf.saved_model.save(module, folder, signatures=it))"
        )
    return names[0]


def facts_of(path: Path) -> dict[str, Any]:
    """Return what `edgec inspect` shows: the signature's ends, and the operators behind it."""
    tf = load_tensorflow(path)
    graph = read_proto(path).meta_graphs[0]
    names = [name for name in graph.signature_def if name != _INITIALISER]
    signature = graph.signature_def[chosen(names, path)]

    def ends(tensors: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "dtype": tf.dtypes.as_dtype(info.dtype).name,
                "shape": ["?" if dim.size < 0 else dim.size for dim in info.tensor_shape.dim],
            }
            for name, info in sorted(tensors.items())
        ]

    sha256, size = digest_of(path)
    return {
        "sha256": sha256,
        "bytes": size,
        "inputs": ends(signature.inputs),
        "outputs": ends(signature.outputs),
        "operators": [
            {"index": index, "op": node.op, "output": node.name}
            for index, node in enumerate(_behind(graph, signature))
        ],
    }


def _behind(graph: Proto, signature: Proto) -> list[Proto]:
    """Return the nodes that a signature's outputs depend on, those of functions included."""
    functions = {one.signature.name: one for one in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    todo = [_node_name(info.name) for info in signature.outputs.values()]
    found: dict[str, Proto] = {}
    while todo:
        name = todo.pop()
        if name not in found and name in nodes:
            found[name] = nodes[name]
            todo += [_node_name(source) for source in nodes[name].input]
    made, calls = [], set[str]()
    waiting = list(found.values())
    while waiting:
        node = waiting.pop(0)
        if node.op not in _PLUMBING:
            made.append(node)
        for called in {_called(value) for value in node.attr.values()} & functions.keys() - calls:
            calls.add(called)
            waiting += functions[called].node_def
    return made


def _called(value: Proto) -> str:
    name: str = value.func.name
    return name


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
