"""A model as the checker sees it: operators in file order, the tensors between them, and facts.

A fact is one property of an operator that a profile's conditions can speak about: `stride_h`,
`activation`, `axes`. Both file formats lead to the same facts; docs/reference/profiles.md lists
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

Fact: TypeAlias = bool | int | float | str | tuple[int, ...] | tuple[str, ...]
Facts: TypeAlias = Mapping[str, Fact]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. `shape` is None where the file does not say; -1 stands for a free size."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    constant: bool

    @property
    def is_static(self) -> bool:
        """Whether every size is known."""
        return self.shape is not None and all(size >= 0 for size in self.shape)

    @property
    def elements(self) -> int:
        """How many values it holds, 0 where that is not known."""
        return prod(self.shape) if self.shape is not None and self.is_static else 0

    @property
    def inner_rank(self) -> int:
        """Dimensions from the outermost one above 1 to the innermost: 3 for [1, 28, 28, 8]."""
        sizes = self.shape or ()
        return next((len(sizes) - i for i, size in enumerate(sizes) if size != 1), 0)

    def __str__(self) -> str:
        shape = (
            "?" if self.shape is None else "x".join("?" if n < 0 else str(n) for n in self.shape)
        )
        return f"'{self.name}' {self.dtype}[{shape}]"


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator. `inputs` and `outputs` are numbers of tensors; left-out inputs are left out."""

    index: int
    op: str
    version: int | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """The main graph of a model file."""

    format: str  # "tflite" | "onnx"
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def data_inputs(self, operator: Operator) -> tuple[Tensor, ...]:
        """Return the tensors that an operator computes on: its inputs that are no constants."""
        found = (self.tensors[i] for i in operator.inputs)
        return tuple(tensor for tensor in found if not tensor.constant)

    def results(self, operator: Operator) -> tuple[Tensor, ...]:
        """Return the tensors that an operator makes."""
        return tuple(self.tensors[i] for i in operator.outputs)

    def output_name(self, operator: Operator) -> str:
        """Return the name of an operator's first output, which identifies it in its file."""
        return self.tensors[operator.outputs[0]].name if operator.outputs else ""
