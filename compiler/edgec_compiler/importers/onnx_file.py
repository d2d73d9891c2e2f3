"""Reads an ONNX file into checked, plain values: what may be wrong with the file is found here."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper, shape_inference, version_converter

from edgec_compiler.errors import ModelFileError, UnsupportedOperatorError
from edgec_compiler.importers.onnx_dtypes import NARROW, TINY, numpy_dtype, type_name
from edgec_compiler.importers.onnx_external import (
    MAX_BYTES,
    TOO_LARGE,
    external_files,
    external_sizes,
)
from edgec_compiler.importers.onnx_order import put_in_order
from edgec_compiler.importers.onnx_sound import refuse_unsound
from edgec_compiler.importers.shapes import Shapes, fixed_shape, named_sizes, refuse_unknown
from edgec_compiler.source import Operator
from edgec_runtime.session import ModelTensor

MIN_OPSET = 7
MAX_OPSET = onnx.defs.onnx_opset_version()
_OWN_DOMAINS = ("", "ai.onnx")
_NOT_LIFTED = (
    version_converter.ConvertError,
    shape_inference.InferenceError,
    RuntimeError,
    ValueError,
)


class OnnxFile(NamedTuple):
    """A model with its external data, and the sha256, size and names of all that was read."""

    model: onnx.ModelProto
    sha256: str
    size_bytes: int
    external: tuple[str, ...]
    notes: tuple[str, ...]  # what was changed to read it


def _none_of(path: Path) -> str:
    """Return what a file is not that has none of the other kinds' first bytes."""
    named = path.suffix in ("", ".onnx")
    return "not an ONNX file" if named else "no model of a known kind"


def read_onnx(path: Path) -> OnnxFile:
    """Return the model in a file with its external data.

    Raises:
        ModelFileError: not an ONNX file, damaged, not sound, too old, or too new.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError(f"{path}: {TOO_LARGE}")
    payload = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(payload)
    except DecodeError as error:
        raise ModelFileError(f"{path}: {_none_of(path)}, or a damaged one") from error
    if not model.graph.node or not model.graph.output:
        raise ModelFileError(f"{path}: not an ONNX file, or one without operators")
    for graph in (model.graph, *model.functions):
        put_in_order(graph)
    digest, size = hashlib.sha256(payload), len(payload)
    external = tuple(sorted(external_sizes(model, path)))
    for data in external_files(model, path, MAX_BYTES - size):
        digest.update(data)
        size += len(data)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelFileError(f"{path}: external data: {str(error).splitlines()[0]}") from error
    try:
        refuse_unsound(model)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    model, notes = _readable(model, path)
    return OnnxFile(model, digest.hexdigest(), size, external, notes)


def _readable(model: onnx.ModelProto, path: Path) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model in an opset that is read, and a note if it came in an older one."""
    opset = opset_of(model)
    if MIN_OPSET <= opset <= MAX_OPSET:
        return model, ()
    supported = f"{path}: opset {opset}; supported are {MIN_OPSET} to {MAX_OPSET}"
    if opset > MAX_OPSET:
        raise ModelFileError(f"{supported}: export the model again with an older one")
    try:
        lifted = version_converter.convert_version(model, MIN_OPSET)
    except _NOT_LIFTED as error:
        raise ModelFileError(
            f"{supported}, and onnx.version_converter cannot lift it: export the model again"
        ) from error
    return lifted, (f"opset {opset} was lifted to {MIN_OPSET} by onnx.version_converter",)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that the model is written in."""
    for entry in model.opset_import:
        if entry.domain in _OWN_DOMAINS:
            return int(entry.version)
    return MAX_OPSET if model.opset_import else 1  # a model of other domains' operators alone


def inputs_of(model: onnx.ModelProto, shapes: Shapes) -> tuple[ModelTensor, ...]:
    """Return the model's inputs with static shapes. Raises UsageError, ModelFileError."""
    known = {tensor.name for tensor in model.graph.initializer}
    declared = [value for value in model.graph.input if value.name not in known]
    refuse_unknown(shapes, [value.name for value in declared])
    sizes = named_sizes({value.name: _dims(value) for value in declared}, shapes)
    return tuple(_input(value, shapes, sizes) for value in declared)


def _dims(value: onnx.ValueInfoProto) -> list[int | str | None]:
    """Return the declared shape of `value`: sizes, names of free axes, and None for others."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]


def _input(value: onnx.ValueInfoProto, shapes: Shapes, sizes: Mapping[str, int]) -> ModelTensor:
    if not value.type.HasField("tensor_type"):
        raise ModelFileError(f"input '{value.name}' is not a tensor, which is not supported")
    tensor = value.type.tensor_type
    dtype = numpy_dtype(tensor.elem_type)
    if dtype is None:
        raise ModelFileError(f"input '{value.name}' has element type {type_name(tensor.elem_type)}")
    if not tensor.HasField("shape"):
        if value.name not in shapes:
            raise ModelFileError(f"input '{value.name}' has no shape: give it with --shape")
        return ModelTensor(value.name, dtype.name, shapes[value.name])
    fixed = fixed_shape(value.name, _dims(value), shapes, sizes)
    return ModelTensor(value.name, dtype.name, fixed)


def with_shapes(model: onnx.ModelProto, inputs: tuple[ModelTensor, ...]) -> bytes:
    """Return the model, self-contained, with its inputs' shapes fixed: for ONNX's own runtime."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    known = {tensor.name: tensor for tensor in inputs}
    for value in fixed.graph.input:
        if value.name in known:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in known[value.name].shape:
                shape.dim.add().dim_value = size
    for value in fixed.graph.output:  # what they are follows from the inputs
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    payload: bytes = fixed.SerializeToString(deterministic=True)
    return payload


def operators_of(model: onnx.ModelProto) -> tuple[Operator, ...]:
    """Return the graph's own nodes, in file order."""
    return tuple(
        Operator(index, node.op_type, node.output[0] if node.output else "")
        for index, node in enumerate(model.graph.node)
    )


def array_of(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    """Return the values of an ONNX tensor.

    Raises:
        UnsupportedOperatorError: the element type has no counterpart in torch.
        ModelFileError: the data does not fill the shape.
    """
    held = NARROW.get(tensor.data_type)
    known = held or numpy_dtype(tensor.data_type)
    if known is None and tensor.data_type not in (onnx.TensorProto.BFLOAT16, *TINY):
        raise UnsupportedOperatorError(
            "Constant", tensor.name, f"element type {type_name(tensor.data_type)}"
        )
    try:
        values = np.array(numpy_helper.to_array(tensor))  # a writable copy
        return values.astype(held) if held else values
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"tensor '{tensor.name}': its data does not fill its shape") from error


def attributes_of(attributes: Sequence[onnx.AttributeProto]) -> dict[str, Any]:
    """Return attributes as int, float, str, list, numpy array or GraphProto, by name."""
    return {attribute.name: _attribute(attribute) for attribute in attributes}


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return array_of(value)
    if isinstance(value, onnx.GraphProto | onnx.SparseTensorProto | onnx.TypeProto | int | float):
        return value
    if value is None:
        raise ModelFileError(f"attribute '{attribute.name!s}' has no value")
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value]
