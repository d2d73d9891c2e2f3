"""One JSON request to the fleet server: bounded, without redirects, every failure named."""

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from edgec_agent.errors import EnrolmentError, NetworkError
from edgec_agent.patience import Patience, bound
from edgec_bundle import strict_json

_MAX_ANSWER_BYTES = 4 * 2**20
_TIMEOUT_S = 20.0
_WHOLE_S = 120.0  # 240 kB at 2 kB/s


def request_json(
    method: str,
    url: str,
    *,
    body: Mapping[str, Any] | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = _TIMEOUT_S,
    whole_s: float = _WHOLE_S,
) -> dict[str, Any]:
    """Return the JSON object that `url` answers with.

    Args:
        tls: for https; without one the system's certificate authorities are believed.
        timeout_s: for connecting, sending, and each read.
        whole_s: for the answer, however its bytes trickle.

    Raises:
        NetworkError: the server can't be reached, failed (5xx), or answers nonsense.
        EnrolmentError: it refuses (4xx); the message is the server's.
    """
    connection, path = _connection(url, tls, timeout_s)
    bound(connection, Patience(timeout_s, whole_s))
    payload = None if body is None else json.dumps(body).encode()
    headers = {"Accept": "application/json"}
    if payload is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, body=payload, headers=headers)
        response = connection.getresponse()
        answer = response.read(_MAX_ANSWER_BYTES + 1)
    except ssl.SSLError as error:
        raise NetworkError(f"{url}: TLS failed: {error.reason or error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise NetworkError(f"{url}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    return _checked(url, response.status, answer)


def _connection(
    url: str, tls: ssl.SSLContext | None, timeout_s: float
) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise NetworkError(f"not an address: {url!r:.200}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise NetworkError(f"expected an address like https://HOST:PORT, got {url!r:.200}")
    path = parts.path or "/"
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s), path
    context = tls or ssl.create_default_context()
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context), path


def _checked(url: str, status: int, answer: bytes) -> dict[str, Any]:
    try:
        raw = strict_json.loads(answer, max_bytes=_MAX_ANSWER_BYTES)
    except ValueError:
        raw = None
    if 400 <= status < 500:
        said = raw.get("error") if isinstance(raw, dict) else None
        raise EnrolmentError(f"{url}: refused: {said or f'HTTP {status}'}"[:500])
    if status not in (200, 201):
        raise NetworkError(f"{url}: HTTP {status}")
    if not isinstance(raw, dict):
        raise NetworkError(f"{url}: expected a JSON object")
    return raw
