"""Small models of our own making, as files: ONNX by hand, TFLite by flatbuffers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import flatbuffers
import numpy as np
from delta_lots import weights_of as random_data
from hypothesis import strategies as st

from edgec_bundle.delta import apply_patch, make_patch_as
from edgec_bundle.digest import sha256_hex
from edgec_bundle.store import BytesReader

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "models" / "digits"
GOLDENS = Path(__file__).parent.parent / "delta_goldens"
ONNX_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int16": 5,
    "int32": 6,
    "float16": 10,
    "bfloat16": 16,
    "int4": 22,
}
TFLITE_TYPES = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int16": 7,
    "int8": 9,
    "int4": 17,
}


@dataclass(frozen=True)
class Weights:
    """A tensor to be written: raw little-endian elements, int4 packed."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    scales: bytes = b""


class Sink:
    """An appender that remembers."""

    def __init__(self) -> None:
        self.data = bytearray()

    def append(self, data: bytes) -> None:
        self.data += data


def applied(patch: bytes, old: bytes, new: bytes) -> bytes:
    sink = Sink()
    apply_patch(
        BytesReader(patch), BytesReader(old), sink, new_sha256=sha256_hex(new), new_bytes=len(new)
    )
    return bytes(sink.data)


def body_of(name: str, old: bytes, new: bytes) -> bytes:
    """Return the body of a patch, without the common header."""
    from edgec_bundle.delta import read_header

    patch = make_patch_as(name, old, new).data
    return patch[len(read_header(patch).to_bytes()) :]


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_file(tensors: Sequence[Weights], graph: bytes = b"main") -> bytes:
    parts = []
    for one in tensors:
        dims = b"".join(varint(1 << 3) + varint(dim) for dim in one.shape)
        kind = varint(2 << 3) + varint(ONNX_TYPES[one.dtype])
        parts.append(field(5, dims + kind + field(8, one.name.encode()) + field(9, one.data)))
        if one.scales:
            name = field(8, (one.name + "_scale").encode())
            dims = varint(1 << 3) + varint(len(one.scales) // 4)
            parts.append(field(5, dims + varint(2 << 3) + varint(1) + name + field(9, one.scales)))
    return varint(1 << 3) + varint(9) + field(7, b"".join(parts) + field(2, graph))


def tflite_file(tensors: Sequence[Weights], description: str = "made here") -> bytes:
    builder = flatbuffers.Builder(1024)
    buffers = [_table(builder, [])]
    written = []
    for one in tensors:
        data = builder.CreateByteVector(one.data)
        buffers.append(_table(builder, [(0, "offset", data)]))
        quantization = None
        if one.scales:
            scale = builder.CreateNumpyVector(np.frombuffer(one.scales, "<f4"))
            quantization = _table(builder, [(2, "offset", scale)])
        shape = builder.CreateNumpyVector(np.array(one.shape, "<i4"))
        name = builder.CreateString(one.name)
        fields = [
            (0, "offset", shape),
            (1, "int8", TFLITE_TYPES[one.dtype]),
            (2, "uint32", len(buffers) - 1),
            (3, "offset", name),
        ]
        fields += [(4, "offset", quantization)] if quantization else []
        written.append(_table(builder, fields))
    graph = _table(builder, [(0, "offset", _vector(builder, written))])
    text = builder.CreateString(description)
    graphs, all_buffers = _vector(builder, [graph]), _vector(builder, buffers)
    fields = [(0, "uint32", 3), (2, "offset", graphs), (3, "offset", text)]
    model = _table(builder, [*fields, (4, "offset", all_buffers)])
    builder.Finish(model, file_identifier=b"TFL3")
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, fields: list[tuple[int, str, int]]) -> int:
    builder.StartObject(8)
    for slot, kind, value in fields:
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        elif kind == "int8":
            builder.PrependInt8Slot(slot, value, 0)
        else:
            builder.PrependUint32Slot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def tuned(one: Weights, chance: np.random.Generator, amount: float) -> Weights:
    """Return the tensor with its values moved a little, as training does."""
    if one.dtype in ("float32", "float16"):
        form = "<f4" if one.dtype == "float32" else "<f2"
        values = np.frombuffer(one.data, form).astype(np.float64)
        values = values * (1 + 0.01 * chance.normal()) + amount * chance.normal(size=len(values))
        return replace(one, data=values.astype(form).tobytes())
    octets = np.frombuffer(one.data, np.uint8)
    moved = octets + np.rint(40 * amount * chance.normal(size=len(octets))).astype(np.int64)
    return replace(one, data=(moved & 255).astype(np.uint8).tobytes())


@st.composite
def two_models(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two files of models: alike, with tensors changed, gone, new, renamed, resized, pruned."""
    chance = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    amount = draw(st.sampled_from([0.0, 0.001, 0.05, 1.0, 100.0]))
    write = draw(st.sampled_from([onnx_file, tflite_file]))
    old, new = [], []
    for number in range(draw(st.integers(0, 4))):
        dtypes = sorted(TFLITE_TYPES if write is tflite_file else ONNX_TYPES)
        dtype = draw(st.sampled_from(dtypes))
        shape = draw(
            st.sampled_from([(40,), (8, 4, 3, 3), (4, 3, 3, 8), (16, 20), (2,), (), (700,)])
        )
        count = int(np.prod(shape))
        scales = chance.random(shape[0], dtype=np.float32).tobytes() if len(shape) > 1 else b""
        one = Weights(f"w{number}", dtype, shape, random_data(dtype, count, chance), scales)
        old.append(one)
        fate = draw(st.sampled_from(["same", "tuned", "tuned", "grown", "pruned", "gone", "other"]))
        new += _changed(one, fate, chance, amount)
    if draw(st.booleans()):
        new.reverse()
    return write(old), write(new)


def _changed(one: Weights, fate: str, chance: np.random.Generator, amount: float) -> list[Weights]:
    if fate == "gone":
        return []
    if fate == "tuned":
        return [tuned(one, chance, amount)]
    if fate == "grown" and one.shape:
        extra = random_data(one.dtype, int(np.prod(one.shape[1:])) * 2, chance)
        if one.dtype != "int4":
            shape = (one.shape[0] + 2, *one.shape[1:])
            return [replace(tuned(one, chance, amount), shape=shape, data=one.data + extra)]
    if fate == "pruned":
        octets = bytearray(one.data)
        octets[: len(octets) // 8 * 4] = bytes(len(octets) // 8 * 4)
        return [replace(one, data=bytes(octets))]
    if fate == "other":
        return [
            replace(one, name="x", data=random_data(one.dtype, int(np.prod(one.shape)), chance))
        ]
    return [one]
