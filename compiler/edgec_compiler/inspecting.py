"""Facts of a model file, read without torch and without running anything of it."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from edgec_compiler.errors import MissingExtraError, ModelFileError, UsageError
from edgec_compiler.importers.sniff import ZIP_ERRORS

# Read by native libraries, which may crash on a damaged file: in a child process.
NATIVE_KINDS = ("h5", "savedmodel")
_MAX_JSON_BYTES = 512 << 20
_TORCH_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
Facts = dict[str, Any]


def inspect_model(kind: str, path: Path, factory: str | None) -> Facts:
    """Return {"kind", "format", "sha256", "bytes", "inputs", "outputs", "operators"}.

    Raises:
        UsageError: a Python file, which would have to be run.
        ModelFileError: damaged, or of no use to anyone: something is read that nothing makes.
        MissingExtraError: the extra that reads the kind is not installed.
    """
    if factory is not None:
        raise UsageError(
            f"{path}:{factory} would have to be run to be inspected: export it with "
            "torch.export.save"
        )
    readers = {"onnx": _onnx, "tflite": _tflite, "torch": _torch, "savedmodel": _saved_model}
    try:
        facts = readers[kind](path) if kind in readers else _keras(kind, path)
    except ImportError as error:
        raise MissingExtraError("compiler", f"{path}: reading it") from error
    digest, size = facts.pop("sha256", None), facts.pop("bytes", None)
    if digest is None:
        payload = path.read_bytes()
        digest, size = hashlib.sha256(payload).hexdigest(), len(payload)
    return {"kind": "model", "format": kind, "sha256": digest, "bytes": size, **facts}


def _onnx(path: Path) -> Facts:
    from edgec_compiler.importers import onnx_file

    model, sha256, size, *_ = onnx_file.read_onnx(path)
    known = {tensor.name for tensor in model.graph.initializer}
    return {
        "sha256": sha256,
        "bytes": size,
        "opset": onnx_file.opset_of(model),
        "inputs": [_onnx_end(v) for v in model.graph.input if v.name not in known],
        "outputs": [_onnx_end(v) for v in model.graph.output],
        "operators": [_operator(o.index, o.op, o.output) for o in onnx_file.operators_of(model)],
    }


def _onnx_end(value: Any) -> Facts:
    from edgec_compiler.importers.onnx_dtypes import numpy_dtype, type_name

    tensor = value.type.tensor_type
    dtype = numpy_dtype(tensor.elem_type)
    shape: list[int | str] = [
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim
    ]
    name = type_name(tensor.elem_type) if dtype is None else dtype.name
    return {"name": value.name, "dtype": name, "shape": shape}


def _tflite(path: Path) -> Facts:
    from edgec_compiler import tflite

    model = tflite.parse(path.read_bytes(), str(path))
    graph = model.subgraphs[0]
    _refuse_unmade(model, path)

    def end(index: int) -> Facts:
        tensor = graph.tensors[index]
        shape = [int(size) for size in ([] if tensor.shape is None else tensor.shape)]
        return {
            "name": tflite.tensor_name(tensor),
            "dtype": tflite.type_name(tensor),
            "shape": shape,
        }

    operators = []
    for index, operator in enumerate(graph.operators or ()):
        made = [i for i in _indices(operator.outputs) if i != -1]
        output = tflite.tensor_name(graph.tensors[made[0]]) if made else ""
        operators.append(_operator(index, tflite.op_name(model, operator), output))
    return {
        "inputs": [end(i) for i in _indices(graph.inputs)],
        "outputs": [end(i) for i in _indices(graph.outputs)],
        "operators": operators,
    }


def _refuse_unmade(model: Any, path: Path) -> None:
    """Raise ModelFileError if an operator reads what nothing makes before it, or of no size."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    from edgec_compiler import tflite

    graph = model.subgraphs[0]
    known = {*_indices(graph.inputs)}
    for index, tensor in enumerate(graph.tensors):
        sizes = _indices(tensor.shape)
        if any(size < -1 for size in sizes):
            name = tflite.tensor_name(tensor)
            raise ModelFileError(f"{path}: tensor '{name}' has a negative size in shape {sizes}")
        if tensor.isVariable or tflite.is_constant(model, tensor) or 0 in sizes:
            known.add(index)
    for operator in graph.operators or ():
        op = tflite.op_name(model, operator)
        for index in tflite.given(operator.inputs):
            is_custom = not hasattr(BuiltinOperator, op)  # which may read scratch memory
            if index not in known and not is_custom:
                name = tflite.tensor_name(graph.tensors[index])
                raise ModelFileError(f"{path}: operator {op}: nothing makes its input '{name}'")
        known |= {*tflite.given(operator.outputs)}
    for index in _indices(graph.outputs):
        if index not in known:
            name = tflite.tensor_name(graph.tensors[index])
            raise ModelFileError(f"{path}: nothing makes the output '{name}'")


def _indices(vector: Any) -> list[int]:
    """Return a vector of a flatbuffer, which is None where the file has none."""
    return [] if vector is None else [int(index) for index in vector]


def _torch(path: Path) -> Facts:
    """Read the graph's JSON in the archive; torch itself is not needed for that."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if "/models/" in n and n.endswith(".json")]
            if len(names) != 1:
                raise ModelFileError(f"{path}: expected one exported program, found {len(names)}")
            if archive.getinfo(names[0]).file_size > _MAX_JSON_BYTES:
                raise ModelFileError(f"{path}: its graph is too large to be read")
            module = json.loads(archive.read(names[0]))["graph_module"]
        graph, signature = module["graph"], module["signature"]
        given = [s["user_input"]["arg"] for s in signature["input_specs"] if "user_input" in s]
        made = [s["user_output"]["arg"] for s in signature["output_specs"] if "user_output" in s]
        values = graph["tensor_values"]
        operators = [
            _operator(i, node["target"].removeprefix("torch.ops.").removesuffix(".default"), "")
            for i, node in enumerate(graph["nodes"])
        ]
        return {
            "inputs": [_torch_end(arg["as_tensor"]["name"], values) for arg in given],
            "outputs": [_torch_end(arg["as_tensor"]["name"], values) for arg in made],
            "operators": operators,
        }
    except (*ZIP_ERRORS, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelFileError(f"{path}: not an exported program, or a damaged one") from error


def _torch_end(name: str, values: dict[str, Any]) -> Facts:
    value = values[name]
    shape = [size.get("as_int", "?") for size in value["sizes"]]
    return {"name": name, "dtype": _TORCH_DTYPES.get(value["dtype"], "?"), "shape": shape}


def _keras(kind: str, path: Path) -> Facts:
    from edgec_compiler.importers.keras_config import facts_of, read_config

    return facts_of(read_config(path, kind))


def _saved_model(path: Path) -> Facts:
    from edgec_compiler.importers.saved_model_folder import facts_of

    return facts_of(path)


def _operator(index: int, op: str, output: str) -> Facts:
    return {"index": index, "op": op, "output": output}
