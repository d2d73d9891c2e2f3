"""Refuses a model that answers the same input differently: nothing could be proven of it."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from edgec_compiler.errors import ModelFileError
from edgec_compiler.source import Operator
from edgec_runtime.session import Array

_TOLERANCE = 1e-4  # of an output's largest value: what sums in another order may cost
_DRAWS = re.compile(
    r"(aten\.)?(rand(n|int|perm)?(_like)?|random\w*|\w*dropout|bernoulli|multinomial|normal"
    r"|normal_functional|uniform|exponential|poisson|rrelu\w*)_?(\.\w+)?",
    re.IGNORECASE,
)


def refuse_random(
    first: Mapping[str, Array], second: Mapping[str, Array], operators: Iterable[Operator]
) -> None:
    """Return if a model's two answers to one input are the same.

    Args:
        first: its outputs by name.
        second: the same again.
        operators: the model's own, to name those that draw.

    Raises:
        ModelFileError: they are not.
    """
    if all(_is_near(value, second[name]) for name, value in first.items()):
        return
    drawing = sorted({one.op for one in operators if _DRAWS.fullmatch(one.op)})
    who = f" ({', '.join(drawing)})" if drawing else ""
    raise ModelFileError(
        f"the model answers the same input differently: it draws at random{who}. Switch that off "
        "for inference, a dropout by training=self.training, or make the random values an input"
    )


def _is_near(first: Array, second: Array) -> bool:
    if first.shape != second.shape or first.dtype.kind != "f":
        return np.array_equal(first, second)
    largest = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    return np.allclose(first, second, rtol=0, atol=_TOLERANCE * largest, equal_nan=True)
