"""TFLite models on LiteRT (ai-edge-litert), or tflite-runtime where a device has only that."""

import ctypes
import logging
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec_runtime.errors import ModelError, RuntimeMissingError
from edgec_runtime.session import Array, ModelTensor, check_feeds

logger = logging.getLogger(__name__)

_Loaded = tuple[Any, list[Any], list[Any]]  # an interpreter, its inputs' and outputs' details
_FAILURES = (ValueError, RuntimeError, SystemError, TypeError)

# Looked up by the system's linker, never named by a manifest.
_LIBRARIES = {
    "edgetpu": "libedgetpu.so.1",
    "ethosu": "libethosu_delegate.so",
    "vx": "libvx_delegate.so",
}


def _interpreter_module() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter  # type: ignore[import-not-found]
        except ImportError as error:
            raise RuntimeMissingError("litert", None, None) from error
    return interpreter


class LiteRtSession:
    """A TFLite model. Interpreters are not thread-safe: a lock lets one run at a time.

    Every run starts from the file's own state: TFLite's recurrent layers would else go on where the
    run before, perhaps another caller's, has ended.
    """

    def __init__(
        self, model: bytes, *, threads: int = 1, delegate: str = "xnnpack", optimise: bool = True
    ) -> None:
        """Load `model`. See `session.load_session`; raises ModelError, RuntimeMissingError."""
        litert = _interpreter_module()
        delegates, self.delegates = _delegates(litert, delegate, optimise)
        try:
            loaded = _loaded(litert, model, threads, delegates, optimise)
        except _FAILURES as error:
            loaded = _without_xnnpack(litert, model, threads, delegates, error, optimise)
            self.delegates = tuple(name for name in self.delegates if name != "xnnpack")
        interpreter, inputs, outputs = loaded
        self.inputs = tuple(_tensor(details) for details in inputs)
        self.outputs = tuple(_tensor(details) for details in outputs)
        self._input_index = {details["name"]: details["index"] for details in inputs}
        self._output_index = {details["name"]: details["index"] for details in outputs}
        if len(self._input_index) != len(inputs) or len(self._output_index) != len(outputs):
            raise ModelError("two inputs or two outputs of the model have the same name")
        self._interpreter: Any = interpreter
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output for `feeds`. See `session.Session`; raises ModelError."""
        problem = check_feeds(self.inputs, feeds)
        if problem is not None:
            raise ModelError(problem)
        with self._lock:
            if self._interpreter is None:
                raise ModelError("the session is closed")
            try:
                self._interpreter.reset_all_variables()  # the state of recurrent layers
                for name, index in self._input_index.items():
                    self._interpreter.set_tensor(index, feeds[name])
                self._interpreter.invoke()
                return {
                    name: np.asarray(self._interpreter.get_tensor(index))  # a copy
                    for name, index in self._output_index.items()
                }
            except (ValueError, RuntimeError) as error:
                raise ModelError(f"LiteRT failed: {_brief(error)}") from error

    def close(self) -> None:
        """Release the model once the run under way has ended."""
        with self._lock:
            self._interpreter = None


def _loaded(
    litert: Any, model: bytes, threads: int, delegates: list[Any], optimise: bool
) -> _Loaded:
    resolver = litert.OpResolverType
    interpreter = litert.Interpreter(
        model_content=model,
        num_threads=threads,
        experimental_delegates=delegates,
        experimental_op_resolver_type=resolver.AUTO
        if optimise
        else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return interpreter, interpreter.get_input_details(), interpreter.get_output_details()


def _without_xnnpack(
    litert: Any, model: bytes, threads: int, delegates: list[Any], error: Exception, optimise: bool
) -> _Loaded:
    """Return the interpreter of a model that XNNPACK has refused. Raises ModelError.

    XNNPACK takes an operator by its type, and may refuse its numbers when it prepares it; LiteRT
    then gives the whole model up, though its own kernels compute it.
    """
    refused = f"LiteRT cannot load the model: {_brief(error)}"
    if not optimise:
        raise ModelError(refused) from error
    try:
        loaded = _loaded(litert, model, threads, delegates, optimise=False)
    except _FAILURES:
        raise ModelError(refused) from error
    logger.warning("XNNPACK refuses the model, which runs slower without it: %s", _brief(error))
    return loaded


def _delegates(litert: Any, delegate: str, optimise: bool) -> tuple[list[Any], tuple[str, ...]]:
    cpu = ("xnnpack", "cpu") if optimise else ("cpu",)
    if delegate in ("cpu", "xnnpack"):
        return [], cpu
    library = _LIBRARIES.get(delegate)
    if library is not None:
        try:
            ctypes.CDLL(library)  # first: a Delegate that fails to load can't be freed
            return [litert.load_delegate(library)], (delegate, *cpu)
        except (OSError, ValueError) as error:
            logger.warning("no '%s' here (%s): the model runs on the CPU", delegate, _brief(error))
            return [], cpu
    logger.warning("LiteRT has no '%s' here: the model runs on the CPU", delegate)
    return [], cpu


def _tensor(details: Mapping[str, Any]) -> ModelTensor:
    name, dtype = details["name"], np.dtype(details["dtype"])
    if dtype.kind not in "biuf":
        raise ModelError(f"tensor '{name}' has type {dtype}, which is not numeric")
    shape = tuple(int(size) for size in details["shape"])
    scales = details["quantization_parameters"]["scales"]
    if len(scales) != 1:
        return ModelTensor(name, dtype.name, shape)
    zero_point = int(details["quantization_parameters"]["zero_points"][0])
    return ModelTensor(name, dtype.name, shape, float(scales[0]), zero_point)


def _brief(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500] or type(error).__name__
