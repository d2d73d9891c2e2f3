"""The head of an HTTP/1.1 request: parsed strictly, from text alone.

Of the standards' (RFC 9110, RFC 9112) freedoms the strict reading is taken wherever two readers
could disagree about where a message ends: both Content-Length and Transfer-Encoding, a bare line
feed, folded headers, a repeated length, a length that is not plain digits are refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_HEADERS = 64

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VERSION = re.compile(r"HTTP/[0-9]\.[0-9]")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class HttpError(Exception):
    """A request that cannot be answered as asked; the connection is closed after saying so."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request line and its headers, names in lower case, repeated ones joined with commas."""

    method: str
    path: tuple[str, ...]  # segments, percent-decoded; none for "/"
    headers: Mapping[str, str]
    keep_alive: bool
    length: int | None  # None: chunked


def parse_head(text: str) -> Head:
    """Return the request line and headers in `text`, without the empty line. Raises HttpError."""
    first, *lines = text.split("\r\n")
    method, target, version = _request_line(first)
    headers = _headers(lines)
    if version == "HTTP/1.1" and "host" not in headers:
        raise HttpError(400, "expected a Host header")
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    keep_alive = "close" not in options and (version == "HTTP/1.1" or "keep-alive" in options)
    return Head(method, _path(target), headers, keep_alive, _length(headers))


def _request_line(line: str) -> tuple[str, str, str]:
    parts = line.split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or _CONTROL.search(line):
        raise HttpError(400, "expected a request line like GET /v2 HTTP/1.1")
    method, target, version = parts
    if not _VERSION.fullmatch(version):
        raise HttpError(400, "expected a request line like GET /v2 HTTP/1.1")
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise HttpError(505, "expected HTTP/1.1")
    return method, target, version


def _headers(lines: list[str]) -> dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise HttpError(431, f"expected at most {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise HttpError(400, "expected headers like Name: value")
        name, value = name.lower(), value.strip(" \t")
        if name in headers and name in ("content-length", "host", "transfer-encoding"):
            raise HttpError(400, f"expected {name} once")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _length(headers: Mapping[str, str]) -> int | None:
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise HttpError(400, "expected Content-Length or Transfer-Encoding, got both")
        if coding.lower() != "chunked":
            raise HttpError(501, "expected Transfer-Encoding: chunked or none")
        return None
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise HttpError(400, "expected Content-Length as a number")
    return int(length)


def _path(target: str) -> tuple[str, ...]:
    if target.lower().startswith(("http://", "https://")):
        target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
    if not target.startswith("/"):
        raise HttpError(400, "expected a path that begins with /")
    path = target.partition("?")[0].partition("#")[0]
    try:
        segments = [unquote_to_bytes(one).decode("utf-8") for one in path[1:].split("/")]
    except UnicodeDecodeError:
        raise HttpError(400, "expected a path in UTF-8") from None
    return tuple(segments if segments[-1] else segments[:-1])
