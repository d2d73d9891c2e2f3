"""Talks to a fleet server over its REST API, with a bearer token."""

import http.client
import json
import os
import secrets
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from edgec_compiler.errors import ServerError, UsageError

_TIMEOUT_S = 120
_MAX_ANSWER = 16 << 20


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a multipart form."""

    field: str
    path: Path
    filename: str


class FleetServer:
    """A fleet server at a URL."""

    def __init__(self, url: str, token: str) -> None:
        """Raises UsageError if `url` is none, or if `token` would travel in the clear."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--server {url}: expected a URL such as https://fleet.example")
        if not token or not token.isascii() or not token.isprintable():
            raise UsageError("--token: expected the text of an API token")
        self._secure = parts.scheme == "https"
        if not self._secure and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError(f"--server {url}: a token is only sent over https, or to this machine")
        self._host, self._port = parts.hostname, parts.port
        self._base = parts.path.rstrip("/")
        self._token = token

    def get(self, path: str) -> bytes | None:
        """Return the body of a GET, or None if there is nothing there. Raises ServerError."""
        status, body = self._request("GET", path, None, {})
        if status == 404:
            return None
        return _accepted(status, body)

    def upload(self, path: str, files: Sequence[Upload]) -> Any:
        """Send files as a multipart form, streamed from disk; return the JSON answer.

        Raises:
            ServerError: the server refuses, or cannot be reached.
        """
        boundary = secrets.token_hex(16)
        with tempfile.TemporaryFile() as form:
            for file in files:
                _append(form, file, boundary)
            form.write(f"--{boundary}--\r\n".encode())
            length = form.tell()
            form.seek(0)
            headers = {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(length),
            }
            status, body = self._request("POST", path, form, headers)
        answer = _accepted(status, body)
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ServerError("the server's answer is not JSON: is this a fleet server?") from error

    def _request(
        self, method: str, path: str, body: IO[bytes] | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        connection = self._connection()
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/json",
            **headers,
        }
        try:
            connection.request(method, self._base + path, body, headers)
            response = connection.getresponse()
            answer = response.read(_MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            where = f"{self._host}:{connection.port}"
            raise ServerError(f"cannot talk to {where}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if len(answer) > _MAX_ANSWER:
            raise ServerError(f"the server answers with more than {_MAX_ANSWER} bytes")
        return response.status, answer

    def _connection(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        # SSL_CERT_FILE names a private authority, as for other clients
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=_TIMEOUT_S, context=context
        )


def token_from(option: str | None) -> str:
    """Return the API token: the option, or $EDGEC_TOKEN. Raises UsageError."""
    token = option or os.environ.get("EDGEC_TOKEN")
    if not token:
        raise UsageError("--token: give the API token, here or as $EDGEC_TOKEN")
    return token


def _accepted(status: int, body: bytes) -> bytes:
    if 200 <= status < 300:
        return body
    try:
        said = json.loads(body)
        reason = said.get("error") or said.get("message") or ""
        detail = said.get("detail")
        reason = f"{reason}: {detail}" if isinstance(detail, str) and detail else reason
    except (ValueError, AttributeError):
        reason = ""
    if status == 401:
        reason = "--token is no API token of it, or one that has expired or was revoked"
    raise ServerError(
        f"the server refuses ({status}): {reason or http.client.responses.get(status, '')}"
    )


def _append(form: IO[bytes], file: Upload, boundary: str) -> None:
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in file.filename)
    form.write(
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{file.field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
    )
    with file.path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            form.write(chunk)
    form.write(b"\r\n")
