"""An offline pack: what the server would send, on a USB stick.

A folder, or the same as a zip file: ``desired.json`` (the message `desired`) and
``blobs/<sha256>``. Nothing in it is believed for being there: it passes the same checks as what
comes over the network.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from edgec_agent.download import SourceError, write_if_missing
from edgec_agent.errors import ConfigError
from edgec_agent.interrupt import Interrupt
from edgec_bundle.messages import Desired
from edgec_bundle.store import PartialBlob

DESIRED = "desired.json"
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)  # what zipfile raises


class _Tree(Protocol):
    def open(self, name: str) -> IO[bytes]:
        """Open a file. Raises KeyError or OSError."""


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> IO[bytes]:
        return (self._root / name).open("rb")


class Pack:
    """An open pack; also a block source for all that lies in it."""

    name = "pack"

    def __init__(self, tree: _Tree, path: Path) -> None:
        self._tree = tree
        self._path = path

    def desired(self) -> bytes:
        """Return the message. Raises ConfigError if there is none."""
        try:
            with self._tree.open(DESIRED) as file:
                return file.read(Desired.MAX_BYTES + 1)
        except (KeyError, *_UNREADABLE) as error:
            raise ConfigError(f"{self._path}: no {DESIRED} in it") from error

    def is_ready(self) -> bool:
        """Return True: it is here."""
        return True

    def pull(self, partial: PartialBlob, interrupt: Interrupt) -> None:
        """Copy the blob's missing blocks out of the pack."""
        try:
            with self._tree.open(f"blobs/{partial.digest}") as file:
                for index in range(partial.blocks):
                    interrupt.check()
                    size = min(partial.block_bytes, partial.size - index * partial.block_bytes)
                    write_if_missing(partial, index, file.read(size))
        except (KeyError, FileNotFoundError) as error:
            raise SourceError("not in the pack", absent=True) from error
        except _UNREADABLE as error:
            raise SourceError(f"the pack can't be read: {error}", absent=True) from error
        if partial.missing():
            raise SourceError("too short in the pack", absent=True)


@contextmanager
def open_pack(path: Path) -> Iterator[Pack]:
    """Open the pack at `path`. Raises ConfigError if it is none."""
    if path.is_dir():
        yield Pack(_Folder(path), path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not a pack: {error}") from error
    with archive:
        yield Pack(archive, path)
