"""A model as it was imported: one torch module and the facts of the file that it came from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # half of the commands never touch torch, nor run a model
    from torch import nn

    from edgec_runtime.session import ModelTensor

Quantisation = Literal["whole", "weights"]  # what of a file is integers already


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the source, counted and ordered as the source itself does."""

    index: int
    op: str
    output: str


@dataclass(frozen=True, slots=True)
class SourceModel:
    """What an importer makes. Every shape is static; axis 0 is the batch.

    `module` is in evaluation mode and takes the inputs in order; it is None for a TFLite file,
    which enters behind the graph passes. `payload` is what the source's own runtime loads (ONNX
    or TFLite bytes); None for a torch program or a Keras model, whose runtime is torch.
    """

    format: str  # "onnx" | "torch" | "keras" | "tflite"
    name: str  # of the file, without suffix
    sha256: str  # of the file, external data included
    size_bytes: int
    inputs: "tuple[ModelTensor, ...]"
    outputs: "tuple[ModelTensor, ...]"
    operators: tuple[Operator, ...]
    module: "nn.Module | None"
    payload: bytes | None
    quantised: bool = False  # holds integers that stand for real values: keeps them
    narrow_weights: bool = False  # stores weights as integers, whatever it computes in
    channels_last: bool = False  # images are NHWC already
    reads: tuple[str, ...] = ()  # files beside it that belong to it, relative to its folder
    notes: tuple[str, ...] = ()  # what the importer mended or chose

    def example(self, seed: int = 0) -> tuple[Any, ...]:
        """Return deterministic tensors of the inputs' shapes and dtypes: small, not all equal."""
        return example_of(self.inputs, seed)


def example_of(inputs: "tuple[ModelTensor, ...]", seed: int = 0) -> tuple[Any, ...]:
    """Return deterministic tensors of `inputs`' shapes and dtypes: small, not all equal."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    made: list[torch.Tensor] = []
    for tensor in inputs:
        dtype = getattr(torch, tensor.dtype)
        if dtype.is_floating_point:
            made.append(torch.rand(tensor.shape, generator=draw).to(dtype))
        else:
            made.append(torch.randint(0, 2, tensor.shape, generator=draw).to(dtype))
    return tuple(made)
