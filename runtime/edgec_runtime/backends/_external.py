"""Finds out whether an ONNX model wants to read other files of the device.

An ONNX tensor may say "my values are in file F". ONNX Runtime then opens F below the current
folder, even if the model came as bytes, and a service's current folder is often the root of the
file system. A bundle's model is one file, so such a model is refused before the runtime sees it.

Only the way to the tensors is followed (field numbers of onnx.proto); all else is skipped by its
length. Nothing is copied.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_TENSOR = "TensorProto"
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# message -> field -> the message that lies there
_INSIDE: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}


def reads_other_files(model: bytes) -> bool:
    """Return whether a tensor of the ONNX file `model` keeps its values in another file.

    Raises:
        ValueError: `model` is not well-formed protobuf.
    """
    view = memoryview(model)
    waiting = [("ModelProto", 0, len(view))]
    while waiting:
        kind, start, end = waiting.pop()
        for field, value, size in _fields(view, start, end):
            if kind == _TENSOR and (
                field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)
            ):
                return True
            if field in _INSIDE[kind] and size is not None:
                waiting.append((_INSIDE[kind][field], value, value + size))
    return False


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield (field, value, None) of numbers and (field, offset, size) of everything with a length.

    The value of fixed-size numbers, which nobody asks for, is their offset.
    """
    while at < end:
        tag, at = _varint(view, at, end)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(view, at, end)
            yield field, value, None
        elif wire == _LENGTH:
            size, at = _varint(view, at, end)
            if size > end - at:
                raise ValueError("a field is longer than its message")
            yield field, at, size
            at += size
        elif wire in (_FIXED32, _FIXED64):
            yield field, at, None
            at += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire}")
    if at != end:
        raise ValueError("a field is longer than its message")


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number does not end")
