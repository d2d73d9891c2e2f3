"""The Open Inference Protocol v2's messages, with the binary tensor extension. Pure: no sockets.

An inference body is JSON, followed by the raw bytes of the tensors that say ``binary_data_size``,
in their order; the header ``Inference-Header-Content-Length`` then gives the length of the JSON.
With that header at 0 there is no JSON: the body is the only input of a model that has just one.

Sources: KServe's "Open Inference Protocol" and its binary data extension; Triton's
``protocol/extension_binary_data.md`` and ``extension_classification.md``.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec_agent import datatypes
from edgec_agent.errors import InvalidInputError, RequestError
from edgec_agent.serving import Array, Inputs
from edgec_bundle.manifest import Manifest, TensorSpec

MAX_JSON_BYTES = 8 << 20  # in memory it takes up to twenty times as much
MAX_TENSORS = 64
MAX_RANK = 8
_MAX_ID = 1024
_MAX_SIZE = 1 << 31


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output that the caller asked for."""

    name: str
    binary: bool
    classes: int = 0  # > 0: the best so many classes instead of the tensor


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a caller asked of a model; shapes and types fit its public interface."""

    id: str | None
    inputs: Inputs
    outputs: tuple[Wanted, ...]


def decode(body: bytes | bytearray, header_length: int | None, manifest: Manifest) -> InferRequest:
    """Return the request in `body`.

    Args:
        body: as received, decompressed.
        header_length: the value of Inference-Header-Content-Length, None without one.
        manifest: whose public interface the tensors must fit.

    Raises:
        RequestError: malformed, or not fitting; names the input at fault.
    """
    view = memoryview(body)
    if header_length is None:
        header, raw = view, view[:0]
    elif header_length > len(view):
        raise RequestError(
            f"Inference-Header-Content-Length: expected at most {len(view)}, got {header_length}"
        )
    else:
        header, raw = view[:header_length], view[header_length:]
    if header_length == 0:
        return _only_input(raw, manifest)
    message = loads(header)
    binary_outputs = _flag(_parameters(message, "request"), "binary_data_output", "request")
    return InferRequest(
        id=_id(message),
        inputs=_inputs(message, raw, manifest),
        outputs=_wanted(message, manifest, binary_outputs),
    )


def encode(
    request: InferRequest, outputs: Mapping[str, Array], manifest: Manifest, labels: Sequence[str]
) -> tuple[bytes, list[bytes]]:
    """Return the response: its JSON, and the raw bytes that follow it (none: all in JSON).

    Raises:
        RequestError: classification was asked of an output that has no classes.
        InferenceError: an output cannot be written in JSON.
    """
    described: list[dict[str, object]] = []
    raw: list[bytes] = []
    for wanted in request.outputs:
        array = outputs[wanted.name]
        if wanted.classes:
            array = _classes(wanted, array, labels)
        entry: dict[str, object] = {
            "name": wanted.name,
            "datatype": datatypes.datatype_of(array.dtype.name),
            "shape": list(array.shape),
        }
        if wanted.binary:
            raw.append(datatypes.to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = datatypes.to_json(wanted.name, array)
        described.append(entry)
    message: dict[str, object] = {
        "model_name": manifest.model,
        "model_version": manifest.version,
        "outputs": described,
    }
    if request.id is not None:
        message["id"] = request.id
    return dumps(message), raw


def loads(payload: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Return the JSON object in `payload`. Raises RequestError."""
    if len(payload) > MAX_JSON_BYTES:
        raise RequestError(
            f"expected at most {MAX_JSON_BYTES} bytes of JSON, got {len(payload)}: "
            "send tensors as binary data"
        )
    try:
        message = json.loads(bytes(payload).decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"expected a JSON object: {error}") from error
    if not isinstance(message, dict):
        raise RequestError(f"expected a JSON object, got {type(message).__name__}")
    return message


def dumps(message: object) -> bytes:
    """Return `message` as compact JSON."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _id(message: Mapping[str, Any]) -> str | None:
    found = message.get("id")
    if found is not None and not (isinstance(found, str) and len(found) <= _MAX_ID):
        raise RequestError(f"id: expected text of at most {_MAX_ID} characters")
    return found


def _entries(message: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the list of named tensors under `key`, each name once."""
    entries = message.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RequestError(f"{key}: expected a list of objects")
    if len(entries) > MAX_TENSORS:
        raise RequestError(f"{key}: expected at most {MAX_TENSORS} tensors, got {len(entries)}")
    names = [entry.get("name") for entry in entries]
    if not all(isinstance(name, str) for name in names):
        raise RequestError(f"{key}: expected a name for each tensor")
    if len(set(names)) != len(names):
        raise RequestError(f"{key}: expected each name once")
    return entries


def _parameters(owner: Mapping[str, Any], what: str) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"{what}: expected parameters as an object")
    if "shared_memory_region" in parameters:
        raise RequestError(f"{what}: shared memory is not supported: send binary data")
    return parameters


def _flag(parameters: Mapping[str, Any], key: str, what: str, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise RequestError(f"{what}: expected {key} as true or false")
    return value


def _count(value: object, what: str, problem: Callable[[str], RequestError]) -> int:
    if type(value) is not int or not 0 <= value < _MAX_SIZE:
        raise problem(f"expected {what} as an integer from 0")
    return value


def _inputs(message: Mapping[str, Any], raw: memoryview, manifest: Manifest) -> Inputs:
    specs = {spec.name: spec for spec in manifest.inputs}
    entries = _entries(message, "inputs")
    for name in specs.keys() - {entry["name"] for entry in entries}:
        raise InvalidInputError(name, "missing")
    inputs: dict[str, Array | list[bytes]] = {}
    offset = 0
    for entry in entries:
        name = entry["name"]
        if name not in specs:
            raise InvalidInputError(name[:80], f"expected one of {', '.join(sorted(specs))}")
        parameters = _parameters(entry, f"input '{name}'")
        datatype, shape = _declared(entry, specs[name], manifest)
        if "binary_data_size" in parameters:
            if "data" in entry:
                raise InvalidInputError(name, "expected data or binary_data_size, got both")
            size = _count(parameters["binary_data_size"], "binary_data_size", _of(name))
            if size > len(raw) - offset:
                raise InvalidInputError(name, f"expected {size} bytes after the JSON, got fewer")
            array = datatypes.from_bytes(name, datatype, shape, raw[offset : offset + size])
            offset += size
        elif "data" in entry:
            array = datatypes.from_json(name, datatype, shape, entry["data"])
        else:
            raise InvalidInputError(name, "expected data or binary_data_size, got neither")
        inputs[name] = _for_pipeline(array)
    if offset != len(raw):
        raise RequestError(f"expected {offset} bytes of tensors after the JSON, got {len(raw)}")
    return inputs


def _of(name: str) -> Callable[[str], RequestError]:
    return lambda problem: InvalidInputError(name, problem)


def _declared(
    entry: Mapping[str, Any], spec: TensorSpec, manifest: Manifest
) -> tuple[str, tuple[int, ...]]:
    """Return datatype and shape that `entry` declares, if the interface allows them."""
    name, datatype, sizes = spec.name, entry.get("datatype"), entry.get("shape")
    if datatype not in datatypes.DATATYPES:
        raise InvalidInputError(name, f"expected a datatype, one of {_names(datatypes.DATATYPES)}")
    if not isinstance(sizes, list) or not 1 <= len(sizes) <= MAX_RANK:
        raise InvalidInputError(name, f"expected a shape of 1 to {MAX_RANK} sizes")
    shape = tuple(_count(size, "each size of shape", _of(name)) for size in sizes)
    if math.prod(shape) >= _MAX_SIZE:
        raise InvalidInputError(name, f"expected fewer than {_MAX_SIZE} elements")
    allowed = datatypes.datatype_of(spec.dtype)
    if datatype == "BYTES" != allowed and _decodes(manifest):
        expected: tuple[int, ...] = (-1,) if len(shape) == 1 else (-1, 1)  # encoded images
    elif datatype != allowed:
        raise InvalidInputError(name, f"expected datatype {allowed}, got {datatype}")
    else:
        expected = spec.shape
    fits = len(shape) == len(expected) and all(
        want in (-1, got) for want, got in zip(expected, shape, strict=True)
    )
    if not fits or not math.prod(shape):
        raise InvalidInputError(name, f"expected shape {list(expected)}, got {list(shape)}")
    return datatype, shape


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def _decodes(manifest: Manifest) -> bool:
    return any(step.get("op") == "decode_image" for step in manifest.preprocessing)


def _for_pipeline(array: Array) -> Array | list[bytes]:
    """Return text as the pipeline takes it: a list of bytes, one per row."""
    return array.ravel().tolist() if array.dtype.kind == "O" else array


def _only_input(raw: memoryview, manifest: Manifest) -> InferRequest:
    """Return the request whose body is nothing but the one input's bytes."""
    if len(manifest.inputs) != 1:
        raise RequestError(f"a body without JSON needs one input, not {len(manifest.inputs)}")
    spec = manifest.inputs[0]
    outputs = tuple(Wanted(output.name, binary=False) for output in manifest.outputs)
    if not len(raw):
        raise InvalidInputError(spec.name, "expected data, got none")
    if spec.dtype == "bytes" or _decodes(manifest):
        return InferRequest(None, {spec.name: [bytes(raw)]}, outputs)
    fixed = math.prod(size for size in spec.shape if size != -1)
    row = fixed * np.dtype(spec.dtype).itemsize
    if spec.shape.count(-1) > 1 or len(raw) % row:
        raise InvalidInputError(spec.name, f"expected a multiple of {row} bytes, got {len(raw)}")
    shape = tuple(len(raw) // row if size == -1 else size for size in spec.shape)
    array = datatypes.from_bytes(spec.name, datatypes.datatype_of(spec.dtype), shape, raw)
    return InferRequest(None, {spec.name: array}, outputs)


def _wanted(message: Mapping[str, Any], manifest: Manifest, binary: bool) -> tuple[Wanted, ...]:
    known = [spec.name for spec in manifest.outputs]
    if not message.get("outputs"):
        return tuple(Wanted(name, binary) for name in known)
    found = []
    for entry in _entries(message, "outputs"):
        name = entry["name"]
        if name not in known:
            raise RequestError(f"output '{name[:80]}': expected one of {_names(known)}")
        what = f"output '{name}'"
        parameters = _parameters(entry, what)
        count = _count(parameters.get("classification", 0), f"{what}: classification", RequestError)
        found.append(Wanted(name, _flag(parameters, "binary_data", what, binary), count))
    return tuple(found)


def _classes(wanted: Wanted, array: Array, labels: Sequence[str]) -> Array:
    """Return the best classes of each row as text "score:index[:label]", best first.

    Args:
        wanted: how many.
        array: [N, K] scores.
        labels: of the K classes, or none.

    Returns:
        [N, min(K, wanted.classes)], dtype object.
    """
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise RequestError(f"output '{wanted.name}': expected scores [N, K] for classification")
    count = min(wanted.classes, array.shape[1])
    best = np.argsort(-array.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = np.empty(best.shape, object)
    for (row, column), index in np.ndenumerate(best):
        label = f":{labels[int(index)]}" if index < len(labels) else ""
        texts[row, column] = f"{array[row, index]:.6f}:{index}{label}".encode()
    return texts
