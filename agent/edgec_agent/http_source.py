"""Blocks over HTTPS: GET /v1/blobs/<sha256> with Range, one connection for all of them."""

import http.client
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from edgec_agent.config import Transfer
from edgec_agent.download import SourceError, write_if_missing
from edgec_agent.interrupt import Interrupt
from edgec_bundle.store import PartialBlob

_ABSENT = (403, 404, 410)


class HttpSource:
    """Blocks from the fleet server's device listener, with this device's certificate."""

    name = "http"

    def __init__(
        self, base_url: str | None, context: Callable[[], ssl.SSLContext], config: Transfer
    ) -> None:
        """Use `base_url` ("https://HOST:PORT"); without one the source is never ready."""
        self._base = base_url
        self._context = context
        self._config = config

    def is_ready(self) -> bool:
        """Return whether there is an address to ask."""
        return self._base is not None

    def pull(self, partial: PartialBlob, interrupt: Interrupt) -> None:
        """Fetch every run of missing blocks."""
        try:
            connection = self._connect()
            try:
                while missing := partial.missing():
                    first, last = _first_run(missing)
                    self._fetch(connection, partial, first, last, interrupt)
                    if partial.missing() == missing:
                        raise SourceError("sent none of the bytes that were asked for")
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(f"{type(error).__name__}: {error}") from error

    def _connect(self) -> http.client.HTTPSConnection:
        parts = urlsplit(self._base or "")
        try:
            port = parts.port or 443
        except ValueError as error:
            raise SourceError(f"not an address: {self._base}") from error
        if parts.scheme != "https" or not parts.hostname:
            raise SourceError(f"expected an https:// address, got {self._base}")
        return http.client.HTTPSConnection(
            parts.hostname, port, timeout=self._config.connect_timeout_s, context=self._context()
        )

    def _fetch(
        self,
        connection: http.client.HTTPSConnection,
        partial: PartialBlob,
        first: int,
        last: int,
        interrupt: Interrupt,
    ) -> None:
        start = first * partial.block_bytes
        end = min(partial.size, (last + 1) * partial.block_bytes) - 1
        headers = {"Range": f"bytes={start}-{end}", "If-Range": f'"{partial.digest}"'}
        connection.request("GET", f"/v1/blobs/{partial.digest}", headers=headers)
        response = connection.getresponse()
        block = _first_block(response, partial, first)
        if response.status == 200:
            last = partial.blocks - 1
        for index in range(block, last + 1):
            interrupt.check()
            data = self._read_block(response, partial, index)
            write_if_missing(partial, index, data)
        if response.read(1):
            raise SourceError("sent more bytes than it announced")

    def _read_block(
        self, response: http.client.HTTPResponse, partial: PartialBlob, index: int
    ) -> bytes:
        wanted = min(partial.block_bytes, partial.size - index * partial.block_bytes)
        deadline = time.monotonic() + self._config.block_timeout_s
        data = bytearray()
        while len(data) < wanted:
            piece = response.read1(wanted - len(data))
            if not piece:
                raise SourceError(f"ended in the middle of block {index}")
            data += piece
            if time.monotonic() > deadline:
                raise SourceError(f"took longer than {self._config.block_timeout_s:g} s a block")
        return bytes(data)


def _first_run(missing: Sequence[int]) -> tuple[int, int]:
    """Return the first and last block of the first unbroken run in `missing`."""
    last = missing[0]
    for index in missing[1:]:
        if index != last + 1:
            break
        last = index
    return missing[0], last


def _first_block(response: http.client.HTTPResponse, partial: PartialBlob, first: int) -> int:
    """Return the number of the block that the body starts with. Raises SourceError."""
    etag = response.headers.get("ETag")
    if response.status in (200, 206) and etag not in (None, f'"{partial.digest}"'):
        raise SourceError(f"sent another blob: ETag {etag!r:.100}")
    if response.status == 200:
        length = response.headers.get("Content-Length")
        if length not in (None, str(partial.size)):
            raise SourceError(f"expected {partial.size} bytes, got {length!r:.40}")
        return 0
    if response.status == 206:
        start = first * partial.block_bytes
        found = response.headers.get("Content-Range", "")
        if not found.startswith(f"bytes {start}-") or not found.endswith(f"/{partial.size}"):
            raise SourceError(f"sent another range: {found!r:.100}")
        return first
    text = f"HTTP {response.status}"
    raise SourceError(text, absent=response.status in _ABSENT)
