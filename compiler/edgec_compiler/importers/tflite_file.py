"""TFLite files, float or already quantised: they enter behind the graph passes."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edgec_compiler import tflite
from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers.shapes import Shapes, fixed_shape, refuse_unknown
from edgec_compiler.importers.tflite_batch import add_batch_axes
from edgec_compiler.importers.tflite_bounds import MAX_BYTES
from edgec_compiler.importers.tflite_quantisation import has_quantised_weights, is_quantised, repair
from edgec_compiler.importers.tflite_static import fold_static
from edgec_compiler.importers.tflite_transposed import name_transposed
from edgec_compiler.source import Operator, SourceModel
from edgec_runtime.errors import RunError
from edgec_runtime.session import ModelTensor, load_session

# Operators of files that another compiler has already been at, and what to give instead.
_FOREIGN = {
    "edgetpu-custom-op": "it is compiled for the Edge TPU already: give the .tflite file that the "
    "Edge TPU compiler was given",
    "ethos-u": "it is compiled by Vela already: give the .tflite file that Vela was given",
}


def import_tflite(path: Path, shapes: Shapes) -> SourceModel:
    """Return the model in a TFLite file.

    Raises:
        ModelFileError: damaged, refused by the runtime, or of other shapes than `shapes` asks for.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError(f"{path}: larger than 2 GiB, which no TFLite file can be")
    payload = path.read_bytes()
    sha256 = hashlib.sha256(payload).hexdigest()
    return source_of(payload, shapes, str(path), path.stem, sha256, len(payload))


def source_of(
    payload: bytes, shapes: Shapes, origin: str, name: str, sha256: str, size: int
) -> SourceModel:
    """Return the bytes of a TFLite file as a source model of that name, digest and size.

    The model is run once on zeros, so that whatever makes a native library crash does so here.

    Raises:
        ModelFileError: see `import_tflite`.
    """
    model = tflite.parse(payload, origin)
    _refuse_foreign(model, origin)
    notes = (*repair(model, origin), *name_transposed(model), *_resize(model, shapes))
    payload = tflite.serialise(model) if notes else payload
    inputs, outputs = _run_once(payload, origin)
    if not inputs:
        raise ModelFileError(f"{origin}: takes no input: what it gives is constant")
    folded = fold_static(model)
    if folded:
        payload = tflite.serialise(model)
        inputs, outputs = _run_once(payload, origin)
    operators = _operators(model)
    batched = add_batch_axes(model, inputs, outputs)
    if batched:
        payload = tflite.serialise(model)
        inputs, outputs = _run_once(payload, origin)
    return SourceModel(
        format="tflite",
        name=name,
        sha256=sha256,
        size_bytes=size,
        inputs=inputs,
        outputs=outputs,
        operators=operators,
        module=None,
        payload=payload,
        quantised=is_quantised(model),
        narrow_weights=has_quantised_weights(model),
        notes=(*notes, *folded, *batched),
    )


def _refuse_foreign(model: tflite.Flatbuffer, origin: str) -> None:
    if len(model.subgraphs) != 1:
        raise ModelFileError(
            f"{origin}: has {len(model.subgraphs)} subgraphs (control flow, or several "
            "signatures); only models with one are taken: convert one signature, without loops"
        )
    for operator in model.subgraphs[0].operators:
        name = tflite.op_name(model, operator)
        if name in _FOREIGN:
            raise ModelFileError(f"{origin}: {_FOREIGN[name]}")
        if name.startswith("Flex"):
            raise ModelFileError(
                f"{origin}: operator {name} needs TensorFlow itself, which no device has: convert "
                "the model again without Select TF operators"
            )


def _resize(model: tflite.Flatbuffer, shapes: Shapes) -> tuple[str, ...]:
    """Fix the free axes of inputs as --shape says; return a note for each that changed."""
    graph = model.subgraphs[0]
    inputs = {tflite.tensor_name(graph.tensors[i]): graph.tensors[i] for i in graph.inputs}
    refuse_unknown(shapes, list(inputs))
    notes = []
    for name, tensor in inputs.items():
        now = _sizes(tensor.shape)
        shape = fixed_shape(name, _sizes(tensor.shapeSignature) or now, {name: now} | dict(shapes))
        if list(shape) != list(now):
            tensor.shape = list(shape)
            notes.append(f"input '{name}' has shape {list(shape)} by --shape")
    return tuple(notes)


def _sizes(sizes: Any) -> tuple[int, ...]:
    return () if sizes is None else tuple(int(size) for size in sizes)


def _run_once(
    payload: bytes, origin: str
) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
    try:
        session = load_session(payload, "litert")
        inputs, outputs = session.inputs, session.outputs
        session.run({one.name: np.zeros(one.shape, one.dtype) for one in inputs})
        session.close()
    except (RunError, MemoryError) as error:
        raise ModelFileError(f"{origin}: {error or 'not enough memory to run it'}") from error
    return inputs, outputs


def _operators(model: tflite.Flatbuffer) -> tuple[Operator, ...]:
    graph = model.subgraphs[0]
    found = []
    for index, operator in enumerate(graph.operators):
        made = [tensor for tensor in operator.outputs if tensor != -1]
        output = tflite.tensor_name(graph.tensors[made[0]]) if made else ""
        found.append(Operator(index, tflite.op_name(model, operator), output))
    return tuple(found)
