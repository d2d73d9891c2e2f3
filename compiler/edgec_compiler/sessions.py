"""Sessions of source models: what the compiled model is compared with."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgec_compiler.errors import ConversionError
from edgec_compiler.repeating import refuse_random
from edgec_compiler.source import SourceModel
from edgec_runtime.errors import ModelError, RunError
from edgec_runtime.session import Array, ModelTensor, Session, check_feeds, load_session


class TorchSession:
    """A torch module behind the runtime's `Session` protocol."""

    delegates = ("cpu",)

    def __init__(
        self, module: nn.Module, inputs: tuple[ModelTensor, ...], outputs: tuple[ModelTensor, ...]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._module: nn.Module | None = module

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output for `feeds`. Raises ModelError."""
        problem = check_feeds(self.inputs, feeds)
        if problem is not None or self._module is None:
            raise ModelError(problem or "the session is closed")
        given = [torch.from_numpy(np.ascontiguousarray(feeds[one.name])) for one in self.inputs]
        with torch.no_grad():
            made = self._module(*given)
        results = made if isinstance(made, tuple | list) else (made,)
        return {o.name: np.asarray(r) for o, r in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        """Let go of the module."""
        self._module = None


def source_session(source: SourceModel) -> Session:
    """Return `source` on its own runtime: torch, ONNX Runtime or LiteRT. Raises ModelError."""
    if source.format == "onnx" and source.payload is not None:
        return load_session(source.payload, "onnxruntime")
    if source.format == "tflite" and source.payload is not None:
        return load_session(source.payload, "litert")
    if source.module is None:
        raise ModelError("the source model has no runtime")
    return TorchSession(source.module, source.inputs, source.outputs)


def source_outputs(source: SourceModel) -> dict[str, Array]:
    """Return what the source model makes of its example input.

    Raises:
        ConversionError: it does not run.
        ModelFileError: it makes something else of it each time.
    """
    try:
        session = source_session(source)
        example = source.example()
        feeds = {t.name: np.asarray(x) for t, x in zip(source.inputs, example, strict=True)}
        made, again = session.run(feeds), session.run(feeds)
        session.close()
    except RunError as error:
        raise ConversionError(f"the source model does not run: {error}") from error
    refuse_random(made, again, source.operators)
    return {tensor.name: made[tensor.name] for tensor in source.outputs}
