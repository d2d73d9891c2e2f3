"""ONNX models on ONNX Runtime."""

import logging
from collections.abc import Mapping

import numpy as np
import onnxruntime

from edgec_runtime.backends._external import reads_other_files
from edgec_runtime.errors import ModelError
from edgec_runtime.session import Array, ModelTensor, check_feeds

logger = logging.getLogger(__name__)

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "qnn": ("QNNExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
_OPTIONS = {"QNNExecutionProvider": {"backend_path": "libQnnHtp.so"}}  # the Hexagon NPU
_DELEGATES = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "QNNExecutionProvider": "qnn",
    "TensorrtExecutionProvider": "tensorrt",
}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
_FATAL_ONLY = 4  # ONNX Runtime's own log to stderr; what goes wrong also comes as an exception
# A second lock on the same door as `_refuse_other_files`, for runtimes that know the option.
_FILES_BELOW = "session.model_external_initializers_file_folder_path"
_NOWHERE = "/dev/null/nowhere"


class OnnxSession:
    """An ONNX model. ONNX Runtime's own `run` is safe to call from several threads."""

    def __init__(
        self, model: bytes, *, threads: int = 1, delegate: str = "cpu", optimise: bool = True
    ) -> None:
        """Load `model`. See `session.load_session`; raises ModelError."""
        _refuse_other_files(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        # A spinning thread pool would keep a small device's core busy between requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(_FILES_BELOW, _NOWHERE)
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            providers = _available(delegate)
            session = onnxruntime.InferenceSession(
                model,
                options,
                providers=providers,
                provider_options=[_OPTIONS.get(name, {}) for name in providers],
            )
        except Exception as error:  # the runtime's errors share no other base class
            raise ModelError(f"ONNX Runtime cannot load the model: {_brief(error)}") from error
        self.inputs = tuple(_tensor(argument) for argument in session.get_inputs())
        self.outputs = tuple(_tensor(argument) for argument in session.get_outputs())
        self.delegates = tuple(_DELEGATES.get(name, name) for name in session.get_providers())
        self._session: onnxruntime.InferenceSession | None = session

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output for `feeds`. See `session.Session`; raises ModelError."""
        session = self._session
        if session is None:
            raise ModelError("the session is closed")
        problem = check_feeds(self.inputs, feeds)
        if problem is not None:
            raise ModelError(problem)
        names = [tensor.name for tensor in self.outputs]
        try:
            values = session.run(names, dict(feeds))
        except Exception as error:  # as above
            raise ModelError(f"ONNX Runtime failed: {_brief(error)}") from error
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    def close(self) -> None:
        """Release the model once the last run under way has ended."""
        self._session = None


def _refuse_other_files(model: bytes) -> None:
    if model[4:8] == b"ORTM":
        raise ModelError("expected an ONNX model, got one in ONNX Runtime's own format")
    try:
        if reads_other_files(model):
            raise ModelError("the model keeps tensors in other files; expected all in one file")
    except ValueError as error:
        raise ModelError(f"ONNX Runtime cannot load the model: not ONNX ({error})") from error


def _available(delegate: str) -> list[str]:
    wanted = _PROVIDERS.get(delegate, _PROVIDERS["cpu"])
    known = set(onnxruntime.get_available_providers())
    found = [name for name in wanted if name in known]
    if delegate not in _PROVIDERS or wanted[0] not in known:
        logger.warning("ONNX Runtime has no '%s' here: the model runs on %s", delegate, found)
    return found


def _tensor(argument: onnxruntime.NodeArg) -> ModelTensor:
    dtype = _DTYPES.get(argument.type)
    if dtype is None:
        raise ModelError(f"tensor '{argument.name}' has type {argument.type}, which is not numeric")
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape or ())
    return ModelTensor(argument.name, dtype, shape)


def _brief(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500] or type(error).__name__
