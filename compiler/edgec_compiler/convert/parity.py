"""Proof that a converted float model computes what its source computes.

Converters have folded operators wrongly without a word, so each float form answers random inputs,
negative values among them, beside the torch module that it was made from. A form is refused only if
it is wrong for every draw: one alone may fall on the step of an operator that jumps.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from edgec_compiler.convert.to_tflite import FloatTflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.source import SourceModel
from edgec_runtime.errors import RunError
from edgec_runtime.session import Array, ModelTensor, Session, load_session

TOLERANCE = 1e-2  # of an output's largest value: far above rounding, far below a wrong operator
_SMALL = 1e-4  # outputs that are all below it, as scores of noise are, hold little but rounding
_SEEDS = (1, 2)
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)

Answer = Callable[[Sequence[Array]], Sequence[Array]]


def check_tflite(form: FloatTflite, module: nn.Module, source: SourceModel) -> None:
    """Return if `form` computes what `module` does. Raises ConversionError."""
    session = load_session(form.payload, "litert")

    def answer(inputs: Sequence[Array]) -> Sequence[Array]:
        given = [
            x.transpose(_TO_LAST) if i in form.moved_inputs else x for i, x in enumerate(inputs)
        ]
        made = _run(session, given)
        return [
            y.transpose(_TO_FIRST) if i in form.moved_outputs else y for i, y in enumerate(made)
        ]

    try:
        _check("litert-torch", module, source, answer)
    finally:
        session.close()


def check_onnx(payload: bytes, module: nn.Module, source: SourceModel) -> None:
    """Return if the ONNX model in `payload` computes what `module` does. Raises ConversionError."""
    session = load_session(payload, "onnxruntime")
    try:
        _check("torch's ONNX exporter", module, source, lambda inputs: _run(session, inputs))
    finally:
        session.close()


def check_same(before: bytes, after: bytes, what: str) -> None:
    """Return if two float TFLite models with equal ends compute the same.

    Args:
        before: a model that is right.
        after: made from it.
        what: was done to it, for the message.

    Raises:
        ConversionError: they do not.
    """
    first, second = load_session(before, "litert"), load_session(after, "litert")
    try:
        for seed in _SEEDS:
            draw = np.random.default_rng(seed)
            feeds = {tensor.name: _drawn(tensor, draw) for tensor in first.inputs}
            wanted, found = first.run(feeds), second.run(feeds)
            if all(_is_near(value, found[name]) for name, value in wanted.items()):
                return
    except RunError:
        return  # what does not run at all is told where the variant is judged
    finally:
        first.close()
        second.close()
    raise ConversionError(f"with {what} the model computes something else. Please report it")


def _drawn(tensor: ModelTensor, draw: np.random.Generator) -> Array:
    shape, dtype = [max(size, 1) for size in tensor.shape], np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return draw.normal(size=shape).astype(dtype)
    return draw.integers(0, 2, shape).astype(dtype)


def _is_near(right: Array, given: Array) -> bool:
    if right.dtype.kind != "f" or not right.size or not np.isfinite(right).all():
        return True
    largest = float(np.abs(right).max())
    return float(np.abs(right - given).max()) <= TOLERANCE * max(largest, _SMALL)


def _check(converter: str, module: nn.Module, source: SourceModel, answer: Answer) -> None:
    problems = []
    for seed in _SEEDS:
        inputs = _signed(source.example(seed))
        with torch.no_grad():
            made = module(*inputs)
        wanted = [y.numpy() for y in (made if isinstance(made, tuple | list) else (made,))]
        try:
            found = answer([x.numpy() for x in inputs])
        except RunError:
            return  # what does not run at all is told where the variant is judged
        problem = _difference(source, wanted, found)
        if problem is None:
            return
        problems.append(problem)
    raise ConversionError(
        f"{converter} made a model that computes something else: {problems[0]}. Please report it; "
        "until then write that part of the model in another way, or choose another --format"
    )


def _difference(source: SourceModel, wanted: Sequence[Array], found: Sequence[Array]) -> str | None:
    for tensor, right, given in zip(source.outputs, wanted, found, strict=True):
        if right.dtype.kind != "f" or not right.size or not np.isfinite(right).all():
            continue
        largest = float(np.abs(right).max())
        off = float(np.abs(right - given.reshape(right.shape)).max())
        if not off <= TOLERANCE * max(largest, _SMALL):
            return f"output '{tensor.name}' is off by {off:.3g}, its largest value is {largest:.3g}"
    return None


def _signed(example: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [2 * x - 1 if x.is_floating_point() else x for x in example]


def _run(session: Session, inputs: Sequence[Array]) -> list[Array]:
    if len(session.inputs) != len(inputs):
        raise ConversionError(
            f"the model has {len(inputs)} inputs and computes with {len(session.inputs)} of them "
            f"({', '.join(tensor.name for tensor in session.inputs)}): leave the others out of it"
        )
    feeds = {
        tensor.name: np.ascontiguousarray(x)
        for tensor, x in zip(session.inputs, inputs, strict=True)
    }
    made = session.run(feeds)
    return [made[tensor.name] for tensor in session.outputs]
