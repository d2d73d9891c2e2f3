"""The typed steps that lead from a raw input to a model's tensor, and from its output onwards.

Each step is a frozen value with its parameters; `parse` makes it from a manifest and refuses what
it does not know. `apply` takes a batch [N, ...] and returns one, or raises Misfit. How steps are
strung together is `processing`'s business. The specification, with vectors that every other
implementation can be held to, is docs/reference/preprocessing.md.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from edgec_runtime.errors import UnsupportedError
from edgec_runtime.session import Array
from edgec_runtime.steps import decision, image, numeric, shape
from edgec_runtime.steps._params import Misfit, Params


class ArrayStep(Protocol):
    """A step from one batch to one batch."""

    @property
    def op(self) -> str:
        """The step's name in manifests."""

    def apply(self, batch: Array) -> Array:
        """Return the step's result for a batch [N, ...]. Raises Misfit."""


Step = ArrayStep | decision.TopK
_S = TypeVar("_S")

_BOTH: dict[str, Callable[[Params], ArrayStep]] = {
    "layout": shape.Layout.parse,
    "cast": numeric.Cast.parse,
    "scale": numeric.Scale.parse,
}
PREPROCESSING: dict[str, Callable[[Params], ArrayStep]] = {
    "decode_image": image.DecodeImage.parse,
    "resize": image.Resize.parse,
    "crop": image.Crop.parse,
    "quantize": numeric.Quantize.parse,
    "one_hot": numeric.OneHot.parse,
    "standardize": numeric.Standardize.parse,
    "window": shape.Window.parse,
    **_BOTH,
}
POSTPROCESSING: dict[str, Callable[[Params], Step]] = {
    "dequantize": numeric.Dequantize.parse,
    "softmax": decision.Softmax.parse,
    "top_k": decision.TopK.parse,
    "threshold": decision.Threshold.parse,
    "argmax": decision.ArgMax.parse,
    **_BOTH,
}
OPS = frozenset(PREPROCESSING) | frozenset(POSTPROCESSING)


def parse_step(
    raw: Mapping[str, Any], known: Mapping[str, Callable[[Params], _S]], where: str, owner: str
) -> tuple[_S, str | None]:
    """Return the step that `raw` describes, and the tensor that it names under `owner`.

    Args:
        raw: one step of a manifest.
        known: PREPROCESSING or POSTPROCESSING.
        where: how messages call the step.
        owner: "input" or "output".

    Raises:
        UnsupportedError: the op is not in `known`.
        SpecError: a parameter is missing, unknown or of a wrong kind.
    """
    op = raw.get("op")
    if not isinstance(op, str) or op not in known:
        raise UnsupportedError((f"{where} '{op}'",))
    params = Params(raw, f"{where} ({op})")
    tensor = params.text(owner) if params.has(owner) else None
    step = known[op](params)
    params.refuse_unread()
    return step, tensor


__all__ = ["OPS", "POSTPROCESSING", "PREPROCESSING", "ArrayStep", "Misfit", "Step", "parse_step"]
