"""TFLite files, float or already quantised: they enter behind the graph passes."""

import hashlib
from pathlib import Path

from edgec_compiler import tflite
from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers.shapes import Shapes
from edgec_compiler.source import Operator, SourceModel
from edgec_runtime.errors import ModelError
from edgec_runtime.session import load_session


def import_tflite(path: Path, shapes: Shapes) -> SourceModel:
    """Return the model in a TFLite file.

    Raises:
        ModelFileError: damaged, refused by the runtime, or of other shapes than `shapes` asks for.
    """
    payload = path.read_bytes()
    model = tflite.parse(payload, str(path))
    if len(model.subgraphs) != 1:
        raise ModelFileError(
            f"{path}: has {len(model.subgraphs)} subgraphs (control flow, or several signatures); "
            "only models with one are taken"
        )
    try:
        session = load_session(payload, "litert")
    except ModelError as error:
        raise ModelFileError(f"{path}: {error}") from error
    inputs, outputs = session.inputs, session.outputs
    session.close()
    for name, shape in shapes.items():
        if shape not in [tensor.shape for tensor in inputs if tensor.name == name]:
            raise ModelFileError(f"{path}: --shape {name}: the shapes of a TFLite file are fixed")
    return SourceModel(
        format="tflite",
        name=path.stem,
        sha256=hashlib.sha256(payload).hexdigest(),
        size_bytes=len(payload),
        inputs=inputs,
        outputs=outputs,
        operators=_operators(model),
        module=None,
        payload=payload,
    )


def _operators(model: tflite.Flatbuffer) -> tuple[Operator, ...]:
    graph = model.subgraphs[0]
    found = []
    for index, operator in enumerate(graph.operators):
        made = [tensor for tensor in operator.outputs if tensor != -1]
        output = tflite.tensor_name(graph.tensors[made[0]]) if made else ""
        found.append(Operator(index, tflite.op_name(model, operator), output))
    return tuple(found)
