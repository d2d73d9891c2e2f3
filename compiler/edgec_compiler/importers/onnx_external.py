"""Weights of an ONNX model that lie in files beside it: found, bounded, and kept in its folder."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from edgec_compiler.errors import ModelFileError

MAX_BYTES = (2 << 30) - (1 << 20)  # a model with its weights: what one protobuf message can hold
TOO_LARGE = "larger than 2 GiB with its weights, which no target has memory for"
_MAX_DEPTH = 50


def external_files(model: onnx.ModelProto, path: Path, most_bytes: int) -> Iterator[bytes]:
    """Yield the external data files that `model` names, in name order, each once.

    Args:
        model: read from `path`.
        path: in whose folder the files must lie; links that lead out of it are refused.
        most_bytes: of all files together.

    Raises:
        ModelFileError: a file is missing, lies elsewhere, is too short for its tensors, or all are
            too large.
    """
    needed = external_sizes(model, path)
    for name in sorted(needed):
        data = _read(name, path, most_bytes)
        if len(data) < needed[name]:
            raise ModelFileError(
                f"{path}: external data '{name}' has {len(data)} bytes, needed are {needed[name]}"
            )
        most_bytes -= len(data)
        yield data


def external_sizes(model: onnx.ModelProto, path: Path) -> dict[str, int]:
    """Return the names of the external data files, and how many bytes of each are needed."""
    needed: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            facts = {entry.key: entry.value for entry in tensor.external_data}
            name = facts.get("location", "")
            needed[name] = max(needed.get(name, 0), _end(facts, path))
    return needed


def _end(facts: dict[str, str], path: Path) -> int:
    """Return where a tensor's data ends in its file."""
    offset, length = facts.get("offset", "0"), facts.get("length", "0")
    if not (offset.isdecimal() and length.isdecimal()) or len(offset) > 18 or len(length) > 18:
        raise ModelFileError(f"{path}: external data at offset '{offset}', length '{length}'")
    return int(offset) + int(length)


def _read(name: str, path: Path, most_bytes: int) -> bytes:
    folder = path.parent.resolve()
    if not name or "\0" in name:
        raise ModelFileError(f"{path}: external data without a location")
    place = (folder / name).resolve()
    if not place.is_relative_to(folder):
        raise ModelFileError(f"{path}: external data '{name}' lies outside the model's folder")
    if not place.is_file():
        raise ModelFileError(
            f"{path}: external data '{name}' cannot be read: it must lie beside the model"
        )
    if place.stat().st_size > most_bytes:
        raise ModelFileError(f"{path}: {TOO_LARGE}")
    try:
        return place.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: external data '{name}' cannot be read") from error


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _of_graph(model.graph, 0)
    for function in model.functions:
        yield from _of_nodes(function.node, 0)


def _of_graph(graph: onnx.GraphProto, depth: int) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_nodes(graph.node, depth)


def _of_nodes(nodes: Iterable[onnx.NodeProto], depth: int) -> Iterator[onnx.TensorProto]:
    if depth > _MAX_DEPTH:
        raise ModelFileError("graphs are nested deeper than in any honest model")
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g, depth + 1)
            for graph in attribute.graphs:
                yield from _of_graph(graph, depth + 1)
