"""The tensors of any file: whichever parser understands it, or none."""

from edgec_bundle.delta.tensor.model import Bytes, NotAModelError, Tensor
from edgec_bundle.delta.tensor.onnx import onnx_tensors
from edgec_bundle.delta.tensor.tflite import tflite_tensors


def tensors_of(data: Bytes) -> tuple[Tensor, ...]:
    """Return the tensors in `data` by offset, disjoint; none if it is no model that we know."""
    for parser in (tflite_tensors, onnx_tensors):
        try:
            return parser(data)
        except NotAModelError:
            continue
    return ()
