"""Inference for Python programs on the device: through the agent's API, or in its own process.

    with AgentClient("unix:/run/edgec/api.sock") as agent:
        result = agent.infer("digits", {"image": images})
        result.outputs["probabilities"], result.version

`LocalModel` has the same `infer` without the sockets, for a program that hosts models itself.
"""

import http.client
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import numpy as np

from edgec_agent import datatypes, oip
from edgec_agent.address import Address
from edgec_agent.errors import (
    InferenceError,
    RequestError,
    ServingError,
    UnavailableError,
    UnknownModelError,
)
from edgec_agent.host import ModelHost
from edgec_agent.serving import Array, Inputs

_ERRORS: dict[int, type[ServingError]] = {400: RequestError, 413: RequestError, 500: InferenceError}


@dataclass(frozen=True, slots=True)
class Result:
    """What a model answered, and which version of it did."""

    outputs: Mapping[str, Array]  # [N, ...] each
    model: str
    version: str


class LocalModel:
    """One model of a `ModelHost` in this process."""

    def __init__(self, host: ModelHost, model: str) -> None:
        self._host = host
        self._model = model

    def infer(self, inputs: Inputs, version: str | None = None) -> Result:
        """Return what the model answers to `inputs`. Raises as `ModelHost.infer`."""
        outputs, manifest = self._host.infer(self._model, inputs, version)
        return Result(outputs, manifest.model, manifest.version)


class AgentClient:
    """A connection to an agent's local API; may be shared by threads, which then take turns."""

    def __init__(self, address: str, *, timeout_s: float = 60.0) -> None:
        """Prepare to talk to `address`; connects at the first call. Raises AddressError."""
        self._connection = _Connection(Address.parse(address), timeout_s)
        self._lock = threading.Lock()

    def infer(self, model: str, inputs: Inputs, version: str | None = None) -> Result:
        """Return what `model` answers to `inputs`: arrays [N, ...], or lists of encoded images.

        Raises:
            UnknownModelError: not served there, or not in `version`.
            RequestError: the inputs do not fit the model.
            InferenceError: the model failed.
            UnavailableError: no agent answers there, or it is busy.
        """
        described, raw = [], []
        for name, value in inputs.items():
            array = value if isinstance(value, np.ndarray) else _texts(value)
            raw.append(datatypes.to_bytes(array))
            described.append(
                {
                    "name": name,
                    "datatype": datatypes.datatype_of(array.dtype.name),
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": len(raw[-1])},
                }
            )
        header = oip.dumps({"inputs": described, "parameters": {"binary_data_output": True}})
        within = f"/versions/{quote(version, safe='')}" if version else ""
        path = f"/v2/models/{quote(model, safe='')}{within}/infer"
        length = {"Inference-Header-Content-Length": str(len(header))}
        headers, body = self._call("POST", path, header + b"".join(raw), length, model)
        return _result(headers, body)

    def status(self) -> dict[str, Any]:
        """Return what the agent is doing (`GET /v1/status`). Raises UnavailableError."""
        return _object(self._call("GET", "/v1/status")[1])

    def metadata(self, model: str) -> dict[str, Any]:
        """Return `model`'s versions, inputs and outputs. Raises as `infer`."""
        path = f"/v2/models/{quote(model, safe='')}"
        return _object(self._call("GET", path, model=model)[1])

    def is_ready(self) -> bool:
        """Return whether an agent answers there and has a model in service."""
        try:
            self._call("GET", "/v2/health/ready")
        except ServingError:
            return False
        return True

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        model: str = "",
    ) -> tuple[http.client.HTTPMessage, bytes]:
        with self._lock:
            try:
                response = self._exchange(method, path, body, headers or {})
                payload = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                where = self._connection.address
                raise UnavailableError(f"no agent answers at {where}: {error}") from error
        if response.status == 200:
            return response.headers, payload
        raise _error(response.status, payload, model)

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        """Send and return the response; once again if the agent had closed an idle connection."""
        reused = self._connection.sock is not None
        try:
            self._connection.request(method, path, body, dict(headers))
            return self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()
            if not reused:
                raise
        self._connection.request(method, path, body, dict(headers))
        return self._connection.getresponse()


class _Connection(http.client.HTTPConnection):
    """An HTTP connection to a TCP address or a unix socket."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.address = address
        self._timeout_s = timeout_s
        self.sock: socket.socket | None = None

    def connect(self) -> None:
        self.sock = self.address.connect(self._timeout_s)


def _texts(values: Sequence[bytes]) -> Array:
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array


def _result(headers: http.client.HTTPMessage, body: bytes) -> Result:
    """Return the response that `body` holds. Raises UnavailableError if it makes no sense."""
    try:
        length = int(headers["Inference-Header-Content-Length"])
        message = json.loads(body[:length])
        outputs: dict[str, Array] = {}
        for entry in message["outputs"]:
            size = entry["parameters"]["binary_data_size"]
            raw = memoryview(body)[length : length + size]
            outputs[entry["name"]] = datatypes.from_bytes(
                entry["name"], entry["datatype"], entry["shape"], raw
            )
            length += size
        return Result(outputs, str(message["model_name"]), str(message["model_version"]))
    except (KeyError, TypeError, ValueError, ServingError) as error:
        raise UnavailableError(f"the answer is not one of an agent: {error}") from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        return oip.loads(body)
    except RequestError as error:
        raise UnavailableError(f"the answer is not one of an agent: {error}") from error


def _error(status: int, payload: bytes, model: str) -> ServingError:
    try:
        problem = str(oip.loads(payload).get("error", ""))
    except RequestError:
        problem = ""
    problem = problem or f"the agent answered {status}"
    if status == 404 and model:
        unknown = UnknownModelError(model)
        unknown.args = (problem,)
        return unknown
    return _ERRORS.get(status, UnavailableError)(problem)
