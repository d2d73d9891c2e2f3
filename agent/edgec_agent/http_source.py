"""Blocks over HTTPS: GET /v1/blobs/<sha256> with Range, one connection for all of them.

A range starts at the byte where the last connection broke, not at the block: on a slow link a
block is a minute's worth. If-Range and the ETag, which is the digest, keep bytes of anything else
out; and whatever was sent, the finished blob must have its digest.
"""

import http.client
import ssl
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from edgec_agent.config import Transfer
from edgec_agent.download import SourceError, block_size, write_if_missing
from edgec_agent.interrupt import Interrupt
from edgec_agent.patience import Patience, bound
from edgec_bundle.store import PartialBlob

_WHY = {
    401: "it does not know this device's certificate",
    403: "it refuses this device",
    404: "it is not there, or not for this device",
    410: "it was withdrawn",
    416: "it is shorter there than was signed",
}
_ASKS_FOR_TIME = (429, 503)
_LONGEST_REST_S = 3600.0


class HttpSource:
    """Blocks from the fleet server's device listener, with this device's certificate."""

    name = "http"

    def __init__(
        self,
        base_url: str | None,
        context: Callable[[], ssl.SSLContext],
        config: Transfer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `base_url` ("https://HOST:PORT"); without one the source is never ready."""
        self._base = base_url
        self._context = context
        self._config = config
        self._clock = clock
        self._begun: tuple[str, int, bytes] = ("", 0, b"")  # digest, block, its first bytes

    def is_ready(self) -> bool:
        """Return whether there is an address to ask."""
        return self._base is not None

    def pull(self, partial: PartialBlob, interrupt: Interrupt) -> None:
        """Fetch every run of missing blocks."""
        connection = self._connect()
        # A TLS record of 16 KiB shows only when it is whole: 8 s at 2 kB/s.
        read_s, whole_s = 3 * self._config.stall_s, self._config.block_timeout_s
        patience = Patience(read_s, whole_s, interrupt, self._clock)
        bound(connection, patience)
        try:
            while missing := partial.missing():
                first, last = _first_run(missing)
                self._fetch(connection, partial, first, last, patience)
                if partial.missing() == missing:
                    raise SourceError("sent none of the bytes that were asked for")
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPSConnection:
        parts = urlsplit(self._base or "")
        try:
            port = parts.port or 443
        except ValueError as error:
            raise SourceError(f"not an address: {self._base}") from error
        if parts.scheme != "https" or not parts.hostname:
            raise SourceError(f"expected an https:// address, got {self._base}")
        connection = http.client.HTTPSConnection(
            parts.hostname, port, timeout=self._config.connect_timeout_s, context=self._context()
        )
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            stranger = isinstance(error, ssl.SSLCertVerificationError)
            text = f"{type(error).__name__}: {error}"
            raise SourceError(text, unreachable=not stranger) from error
        return connection

    def _fetch(
        self,
        connection: http.client.HTTPSConnection,
        partial: PartialBlob,
        first: int,
        last: int,
        patience: Patience,
    ) -> None:
        begun = self._take_begun(partial, first)
        start = first * partial.block_bytes + len(begun)
        end = min(partial.size, (last + 1) * partial.block_bytes) - 1
        headers = {"Range": f"bytes={start}-{end}", "If-Range": f'"{partial.digest}"'}
        patience.restart()
        connection.request("GET", f"/v1/blobs/{partial.digest}", headers=headers)
        response = connection.getresponse()
        if _starts_at(response, partial, start) == 0:
            first, begun = 0, bytearray()
        if response.status == 200:
            last = partial.blocks - 1
        for index in range(first, last + 1):
            patience.restart()
            data = self._read_block(response, partial, index, begun)
            write_if_missing(partial, index, data)
            begun = bytearray()
        if response.read(1):
            raise SourceError("sent more bytes than it announced")

    def _take_begun(self, partial: PartialBlob, block: int) -> bytearray:
        digest, index, data = self._begun
        return bytearray(data) if (digest, index) == (partial.digest, block) else bytearray()

    def _read_block(
        self,
        response: http.client.HTTPResponse,
        partial: PartialBlob,
        index: int,
        data: bytearray,
    ) -> bytes:
        """Return block `index`, of which `data` is here already; what came of it is kept."""
        wanted = block_size(partial, index)
        try:
            while len(data) < wanted:
                piece = response.read1(wanted - len(data))
                if not piece:
                    raise SourceError(f"ended in the middle of block {index}")
                data += piece
            return bytes(data)
        finally:
            self._begun = (partial.digest, index, bytes(data) if len(data) < wanted else b"")


def _first_run(missing: Sequence[int]) -> tuple[int, int]:
    """Return the first and last block of the first unbroken run in `missing`."""
    last = missing[0]
    for index in missing[1:]:
        if index != last + 1:
            break
        last = index
    return missing[0], last


def _starts_at(response: http.client.HTTPResponse, partial: PartialBlob, start: int) -> int:
    """Return the number of the byte that the body starts with. Raises SourceError."""
    etag = response.headers.get("ETag")
    if response.status in (200, 206) and etag not in (None, f'"{partial.digest}"'):
        raise SourceError(f"sent another blob: ETag {etag!r:.100}")
    if response.status == 200:
        length = response.headers.get("Content-Length")
        if length not in (None, str(partial.size)):
            raise SourceError(f"expected {partial.size} bytes, got {length!r:.40}")
        return 0
    if response.status == 206:
        found = response.headers.get("Content-Range", "")
        if not found.startswith(f"bytes {start}-") or not found.endswith(f"/{partial.size}"):
            raise SourceError(f"sent another range: {found!r:.100}")
        return start
    why = _WHY.get(response.status)
    text = f"HTTP {response.status}" + (f": {why}" if why else "")
    rest_s = _rest_s(response) if response.status in _ASKS_FOR_TIME else None
    raise SourceError(text, absent=why is not None, retry_after_s=rest_s)


def _rest_s(response: http.client.HTTPResponse) -> float | None:
    """Return the seconds in Retry-After, within an hour; None if it says nothing useful.

    A date in it is compared with the server's own Date: a device's clock may be years off.
    """
    said = response.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said[:9]), _LONGEST_REST_S)
    try:
        now = parsedate_to_datetime(response.headers.get("Date", ""))
        rest_s = (parsedate_to_datetime(said) - now).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(rest_s, 0.0), _LONGEST_REST_S)
