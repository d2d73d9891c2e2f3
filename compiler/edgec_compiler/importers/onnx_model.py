"""ONNX files as source models."""

from pathlib import Path

import onnx

from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers import onnx_file
from edgec_compiler.importers.onnx_batch import with_batch_axis
from edgec_compiler.importers.onnx_dynamic import without_dynamic
from edgec_compiler.importers.onnx_halves import widen
from edgec_compiler.importers.onnx_module import build_module
from edgec_compiler.importers.onnx_pairs import without_pairs
from edgec_compiler.importers.onnx_selections import notes_on, with_fixed_rows
from edgec_compiler.importers.shapes import Shapes
from edgec_compiler.source import SourceModel, example_of


def import_onnx(path: Path, shapes: Shapes) -> SourceModel:
    """Return the model in an ONNX file.

    Raises:
        ModelFileError: not such a file, damaged, too old or too new.
        UsageError: a free axis needs --shape.
        UnsupportedOperatorError: an operator cannot be expressed.
    """
    model, sha256, size, external, lifted = onnx_file.read_onnx(path)
    widened = widen(model)
    inputs = onnx_file.inputs_of(model, shapes)
    if not inputs:
        raise ModelFileError(f"{path}: takes no input: what it gives is constant")
    payload = onnx_file.with_shapes(with_fixed_rows(model), inputs)  # fails for damaged names
    operators = onnx_file.operators_of(model)
    example = dict(zip((tensor.name for tensor in inputs), example_of(inputs), strict=True))
    real, unquantised = _of_reals(model)
    module, outputs = build_module(real, example)
    batched = with_batch_axis(model, inputs, outputs)
    if batched is not None:
        inputs = batched.inputs
        example = dict(zip((one.name for one in inputs), example_of(inputs), strict=True))
        module, outputs = build_module(_of_reals(batched.model)[0], example)
        payload = onnx_file.with_shapes(with_fixed_rows(batched.model), inputs)
    return SourceModel(
        format="onnx",
        name=path.stem,
        sha256=sha256,
        size_bytes=size,
        inputs=inputs,
        outputs=outputs,
        operators=operators,
        module=module.eval(),
        payload=payload,
        reads=external,
        notes=(
            *lifted,
            *widened,
            *unquantised,
            *notes_on(module),
            *(batched.notes if batched else ()),
        ),
    )


def _of_reals(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with its activations as reals, and a note if they were integers."""
    model, dynamic = without_dynamic(model)
    model, pairs = without_pairs(model)
    return model, dynamic or pairs
