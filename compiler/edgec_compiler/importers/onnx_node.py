"""One operator of an ONNX graph, as the operator tables see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from edgec_compiler.errors import UnsupportedOperatorError

Constant = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `constants[i]` is input i where it is known at compile time, else None."""

    op: str
    opset: int
    inputs: tuple[str, ...]  # "" where an optional input is left out
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[Constant | None, ...] = ()
    narrow: frozenset[int] = frozenset()  # inputs of fewer than 8 bits, which travel in 8

    def attr(self, name: str, default: Any = None) -> Any:
        """Return the attribute `name`: int, float, str, list or numpy array."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Return whether the optional input `index` is given."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def constant(self, index: int, what: str) -> Constant:
        """Return input `index`, which must be known at compile time.

        Raises:
            UnsupportedOperatorError: it depends on the model's input.
        """
        value = self.constants[index] if index < len(self.constants) else None
        if value is None:
            self.refuse(f"{what} depends on the data; only a constant {what} can be compiled")
        return value

    def ints(self, index: int, what: str) -> list[int]:
        """Return the constant input `index` as a flat list of ints."""
        return [int(v) for v in np.ravel(self.constant(index, what))]

    def ints_from(self, attribute: str, index: int) -> list[int] | None:
        """Return ints that older opsets give as an attribute, newer ones as input `index`."""
        if attribute in self.attributes:
            value = self.attributes[attribute]
            return list(value) if isinstance(value, list) else [int(value)]
        return self.ints(index, attribute) if self.has(index) else None

    def refuse(self, reason: str) -> NoReturn:
        """Raise UnsupportedOperatorError about this operator."""
        raise UnsupportedOperatorError(self.op, self.outputs[0] if self.outputs else "?", reason)
