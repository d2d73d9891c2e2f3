"""Distillation into a module of the user's own: trained as it is, captured when it is done."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from edgec_compiler.compress.lessons import tensors
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.torch_file import Flat
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.passes.graph import Example


def capture_student(
    named: str,
    student: nn.Module,
    example: Example,
    wanted: Sequence[Mapping[str, Any]],
    train: Callable[[nn.Module], None],
) -> fx.GraphModule:
    """Train `student` and return its graph after all passes.

    Args:
        named: the user's FILE.py:factory, for messages.
        student: takes the source model's inputs, and any batch of them.
        example: the source's example inputs.
        wanted: "shape" and "dtype" of each output of the source.
        train: trains a module in place.

    Raises:
        UsageError: the student does not take the source's inputs or give its outputs.
        ConversionError: torch cannot capture it.
    """
    flat = Flat(student).eval()
    try:
        with torch.no_grad():
            made = tensors(flat(*example))
            batches = tensors(flat(*(torch.cat([x, x]) for x in example)))
    except Exception as error:  # the user's own code runs here
        said = str(error).strip().partition("\n")[0][:300]
        raise UsageError(
            f"--distill {named}: the student must take the source model's inputs, in any batch: "
            f"{type(error).__name__}: {said}"
        ) from error
    own = [(tuple(x.shape), x.dtype) for x in made]
    asked = [(tuple(meta["shape"]), meta["dtype"]) for meta in wanted]
    if own != asked or any(2 * len(x) != len(y) for x, y in zip(made, batches, strict=True)):
        raise UsageError(
            f"--distill {named}: the student's outputs are {_said(own)}; the source model's are "
            f"{_said(asked)}"
        )
    train(flat)
    graph = capture(flat.eval(), example)
    run_passes(graph, example)
    return graph


def _said(outputs: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(
        f"{str(dtype).removeprefix('torch.')} {list(shape)}" for shape, dtype in outputs
    )
