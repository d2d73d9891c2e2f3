"""A blob over HTTP: whole or one range of it, with its digest as a strong ETag."""

from collections.abc import Iterator
from contextlib import ExitStack

from flask import Response, request
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from edgec_bundle.store import FolderBlobStore

_CHUNK = 256 << 10


def blob_response(store: FolderBlobStore, digest: str) -> Response:
    """Answer the current GET or HEAD request with the blob `digest`.

    A range counts only if If-Range is absent or names this digest; of several ranges none is
    served, but the whole blob. Raises BlobMissingError, RequestedRangeNotSatisfiable.
    """
    headers = {
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
    }
    if request.if_none_match.contains(digest):
        return Response(status=304, headers=headers)
    stack = ExitStack()
    reader = stack.enter_context(store.open(digest))
    try:
        start, stop = _span(reader.size, digest)
    except RequestedRangeNotSatisfiable:
        stack.close()
        raise
    partial = (start, stop) != (0, reader.size)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{reader.size}"
    headers["Content-Length"] = str(stop - start)

    def body() -> Iterator[bytes]:
        with stack:
            for offset in range(start, stop, _CHUNK):
                yield reader.pread(min(_CHUNK, stop - offset), offset)

    response = Response(
        body(),  # not read for HEAD
        status=206 if partial else 200,
        headers=headers,
    )
    response.call_on_close(stack.close)
    return response


def _span(size: int, digest: str) -> tuple[int, int]:
    """Return the [start, stop) that the request asks for."""
    asked = request.range
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return 0, size
    condition = request.headers.get("If-Range")
    if condition is not None and condition.strip() != f'"{digest}"':
        return 0, size
    span = asked.range_for_length(size)
    if span is None or span[0] is None or span[1] is None:
        raise RequestedRangeNotSatisfiable(size)
    return span[0], span[1]
