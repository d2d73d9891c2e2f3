"""What the local API answers: requests in, responses out. No sockets.

/v2/...      Open Inference Protocol, with Triton's config, statistics and repository index
/v1/status   what the agent is doing, for people and `edgec-agent status`
/metrics     Prometheus
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from edgec_agent import metrics, oip
from edgec_agent.datatypes import datatype_of
from edgec_agent.errors import (
    RequestError,
    ServingError,
    UnavailableError,
    UnknownModelError,
)
from edgec_agent.host import ModelHost
from edgec_agent.http1 import Request, Response
from edgec_agent.serving import Serving
from edgec_agent.stats import Totals
from edgec_bundle.manifest import Manifest, TensorSpec

logger = logging.getLogger(__name__)

Status = Callable[[], Mapping[str, object]]
Path = tuple[str, ...]

_LARGE_JSON = 1 << 20
_LARGE_AT_ONCE = 2
_EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")


class Api:
    """Answers requests from what `host` serves."""

    def __init__(self, host: ModelHost, http: metrics.HttpCounts, status: Status | None) -> None:
        self._host = host
        self._http = http
        self._status = status
        self._large_json = threading.BoundedSemaphore(_LARGE_AT_ONCE)
        self._fixed: dict[Path, tuple[str, Callable[[Request], Response]]] = {
            ("v2",): ("GET", self._server),
            ("v2", "health", "live"): ("GET", lambda _: ok({"live": True})),
            ("v2", "health", "ready"): ("GET", self._server_ready),
            ("v2", "models", "stats"): ("GET", self._all_stats),
            ("v2", "repository", "index"): ("POST", self._index),
            ("v1", "status"): ("GET", self._own_status),
            ("metrics",): ("GET", self._metrics),
        }
        self._of_model: dict[Path, tuple[str, Callable[[Request, str, str | None], Response]]] = {
            (): ("GET", self._metadata),
            ("ready",): ("GET", self._ready),
            ("config",): ("GET", self._config),
            ("stats",): ("GET", self._stats),
            ("infer",): ("POST", self._infer),
        }

    def handle(self, request: Request) -> Response:
        """Return the answer to `request`; whatever goes wrong becomes {"error": ...}."""
        try:
            return self._route(request)
        except RequestError as error:
            return failure(400, str(error))
        except UnknownModelError as error:
            return failure(404, str(error))
        except UnavailableError as error:
            return failure(503, str(error), {"Retry-After": "1"})
        except ServingError as error:
            logger.warning("%s", error)
            return failure(500, str(error)[:1000])
        except Exception:
            logger.exception("answering %s", request.head.path)
            return failure(500, "internal error, see the agent's log")

    def _route(self, request: Request) -> Response:
        path = request.head.path
        fixed = self._fixed.get(path)
        if fixed is not None and not (path[1:2] == ("models",) and self._host.active(path[2])):
            method, answer = fixed
            return refused(method) if _differs(request, method) else answer(request)
        if path[:2] == ("v2", "models") and len(path) > 2:
            name, version, rest = path[2], None, path[3:]
            if rest[:1] == ("versions",) and len(rest) > 1:
                version, rest = rest[1], rest[2:]
            if rest in self._of_model:
                method, about = self._of_model[rest]
                return (
                    refused(method) if _differs(request, method) else about(request, name, version)
                )
        if path[:3] == ("v2", "repository", "models"):
            return failure(400, "models come and go by signed assignment, not by this API")
        return failure(404, "no such path: see /v2, /v1/status and /metrics")

    def _server(self, _: Request) -> Response:
        return ok(
            {"name": "edgec-agent", "version": metrics.agent_version(), "extensions": _EXTENSIONS}
        )

    def _server_ready(self, _: Request) -> Response:
        if self._host.is_ready():
            return ok({"ready": True})
        return failure(503, "no model is in service, or one is being exchanged")

    def _serving(self, name: str, version: str | None) -> Serving:
        serving = self._host.active(name)
        if serving is None:
            raise UnknownModelError(name)
        if version and version != serving.manifest.version:
            raise UnknownModelError(name, version=version, serving=serving.manifest.version)
        return serving

    def _metadata(self, _: Request, name: str, version: str | None) -> Response:
        manifest = self._serving(name, version).manifest
        return ok(
            {
                "name": manifest.model,
                "versions": [manifest.version],
                "platform": f"{manifest.runtime.name}_{manifest.format}",
                "inputs": [_tensor(spec) for spec in manifest.inputs],
                "outputs": [_tensor(spec) for spec in manifest.outputs],
            }
        )

    def _ready(self, _: Request, name: str, version: str | None) -> Response:
        serving = self._serving(name, version)
        return ok({"name": name, "version": serving.manifest.version, "ready": True})

    def _config(self, _: Request, name: str, version: str | None) -> Response:
        manifest = self._serving(name, version).manifest
        return ok(
            {
                "name": manifest.model,
                "platform": f"{manifest.runtime.name}_{manifest.format}",
                "backend": manifest.runtime.name,
                "max_batch_size": 0,  # dims below include the batch, -1
                "input": [_configured(spec) for spec in manifest.inputs],
                "output": [_configured(spec) for spec in manifest.outputs],
            }
        )

    def _stats(self, _: Request, name: str, version: str | None) -> Response:
        serving = self._serving(name, version)
        found = [_statistics(t) for t in self._host.totals() if t.manifest == serving.digest]
        return ok({"model_stats": found})

    def _all_stats(self, _: Request) -> Response:
        return ok({"model_stats": [_statistics(totals) for totals in self._host.totals()]})

    def _index(self, _: Request) -> Response:
        return ok(
            [
                {"name": name, "version": s.manifest.version, "state": "READY", "reason": ""}
                for name in self._host.models()
                if (s := self._host.active(name))
            ]
        )

    def _infer(self, request: Request, name: str, version: str | None) -> Response:
        length = request.head.headers.get("inference-header-content-length")
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 16):
            raise RequestError("expected Inference-Header-Content-Length as a number")
        header_length = None if length is None else int(length)
        with self._host.call(name, version) as call:
            try:
                asked = self._decode(request.body, header_length, call.manifest)
            except RequestError:
                call.reject(lambda other: self._decode(request.body, header_length, other).inputs)
                raise
            outputs = call.run(asked.inputs)
            body, parts = oip.encode(asked, outputs, call.manifest, call.labels)
        headers = {"Edgec-Model-Version": call.manifest.version, "Edgec-Manifest": call.digest}
        if not parts:
            return Response(200, body, headers=headers)
        headers["Inference-Header-Content-Length"] = str(len(body))
        return Response(200, body, "application/octet-stream", tuple(parts), headers)

    def _decode(
        self, body: bytes | bytearray, header_length: int | None, manifest: Manifest
    ) -> oip.InferRequest:
        """Return `oip.decode`; large JSON, which takes much memory to read, few at a time."""
        json_bytes = len(body) if header_length is None else header_length
        with self._large_json if json_bytes > _LARGE_JSON else nullcontext():
            return oip.decode(body, header_length, manifest)

    def _metrics(self, _: Request) -> Response:
        return Response(200, metrics.render(self._host, self._http), metrics.CONTENT_TYPE)

    def _own_status(self, _: Request) -> Response:
        added = dict(self._status()) if self._status is not None else {}
        models: dict[str, dict[str, object]] = {
            name: _served(serving, self._host)
            for name in self._host.models()
            if (serving := self._host.active(name))
        }
        more = added.pop("models", {})
        if isinstance(more, Mapping):
            for name, about in more.items():
                models[name] = {**models.get(name, {}), **about}
        status = {"version": metrics.agent_version(), "ready": self._host.is_ready(), **added}
        return ok({**status, "models": models})


def ok(message: object) -> Response:
    """Return a 200 with `message` as JSON."""
    return Response(200, oip.dumps(message))


def failure(status: int, problem: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as the protocol writes it."""
    return Response(status, oip.dumps({"error": problem}), headers=headers or {})


def refused(method: str) -> Response:
    """Return the answer to a request with another method than `method`."""
    return failure(405, f"expected {method}", {"Allow": method})


def _differs(request: Request, method: str) -> bool:
    asked = request.head.method
    return asked != method and not (asked == "HEAD" and method == "GET")


def _tensor(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": list(spec.shape)}


def _configured(spec: TensorSpec) -> dict[str, object]:
    datatype = datatype_of(spec.dtype)
    named = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    return {"name": spec.name, "data_type": named, "dims": list(spec.shape)}


def _statistics(totals: Totals) -> dict[str, object]:
    failed = sum(totals.failures.values())
    nanoseconds = round(totals.latency_sum_ms * 1e6)
    nothing = {"count": 0, "ns": 0}
    ran = {"count": totals.answered, "ns": nanoseconds}
    return {
        "name": totals.model,
        "version": totals.version,
        "last_inference": round(totals.last_ms),
        "inference_count": totals.rows,
        "execution_count": totals.answered,
        "inference_stats": {
            "success": ran,
            "fail": {"count": failed, "ns": 0},
            "queue": nothing,
            "compute_input": nothing,
            "compute_infer": ran,
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
    }


def _served(serving: Serving, host: ModelHost) -> dict[str, Any]:
    manifest = serving.manifest
    window = host.stats(manifest.model)
    latency = window.latency_ms
    return {
        "version": manifest.version,
        "release": manifest.release,
        "manifest": serving.digest,
        "profile": manifest.profile,
        "runtime": manifest.runtime.name,
        "loaded_at": serving.loaded_at.isoformat(timespec="seconds"),
        "in_flight": serving.in_flight,
        "window": {
            "since": window.start.isoformat(timespec="seconds"),
            "requests": window.requests,
            "failed": window.failed,
            "refused": window.refused,
            "latency_ms": {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99},
        },
    }
