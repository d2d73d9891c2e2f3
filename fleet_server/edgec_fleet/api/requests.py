"""Requests as this server reads them: bounded, with uploads spooled into its own folder."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from flask import Request, current_app
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest

from edgec_bundle import strict_json
from edgec_bundle.archive import SUFFIX
from edgec_bundle.errors import BundleError
from edgec_fleet.errors import RefusedError, TooLargeError

MAXIMUM_BODY_BYTES = 1 << 20  # of everything but uploads
MAXIMUM_DOCUMENT_BYTES = 5_000_000  # of a targets.json or acceptance.json
_MEMORY_BYTES = 256 << 10
_MAXIMUM_DEPTH = 32  # objects and arrays inside each other


class BoundedRequest(Request):
    """A request whose body is refused beyond a limit and whose files never fill memory."""

    def get_data(  # type: ignore[override]  # werkzeug says str or bytes by overloads
        self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False
    ) -> bytes | str:
        """Return the body. Raises BadRequest for JSON that Python's own reader stumbles over."""
        data = super().get_data(cache, False, parse_form_data)
        if self.is_json and data:
            try:
                strict_json.loads(data, max_bytes=MAXIMUM_BODY_BYTES, max_depth=_MAXIMUM_DEPTH)
            except ValueError as error:
                raise BadRequest(str(error)) from error
        return data.decode(errors="replace") if as_text else data

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        folder = Path(current_app.config["UPLOADS"])
        folder.mkdir(mode=0o700, exist_ok=True)
        return cast(IO[bytes], tempfile.NamedTemporaryFile(dir=folder, suffix=SUFFIX))


def upload_path(upload: FileStorage) -> Path:
    """Return where the uploaded file lies on disk; it is gone when the request ends."""
    stream: Any = upload.stream
    stream.flush()
    return Path(stream.name)


@contextmanager
def named_as_sent(uploads: Sequence[FileStorage]) -> Iterator[None]:
    """Let errors name uploaded bundles as their sender does, not as they lie on our disk."""
    try:
        yield
    except BundleError as error:
        sentence = str(error)
        for upload in uploads:
            name = PurePosixPath(upload.filename or "bundle").name
            sentence = sentence.replace(str(upload_path(upload)), name)
        raise RefusedError(sentence, detail={"kind": type(error).__name__}) from error


def upload_bytes(upload: FileStorage, limit: int) -> bytes:
    """Return the uploaded file's bytes. Raises TooLargeError, RefusedError (empty)."""
    data = upload.stream.read(limit + 1)
    if len(data) > limit:
        raise TooLargeError(f"expected {upload.name} of at most {limit} bytes")
    if not data:
        raise RefusedError(f"expected bytes in {upload.name}, got none")
    return data
