"""The files of an image repository in a folder, replaced so that a power cut leaves a whole one."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgec_bundle.trust.image import TIMESTAMP


class FolderMetadata:
    """Stores ``ImageRepository.files`` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> dict[str, bytes]:
        """Return the content of every stored file, by name; {} if there is no folder."""
        if not self._folder.is_dir():
            return {}
        return {path.name: path.read_bytes() for path in sorted(self._folder.glob("*.json"))}

    def write(self, files: Mapping[str, bytes]) -> None:
        """Make the folder hold exactly `files`.

        Versioned files first, timestamp.json after them, and what is gone is deleted last: at
        every instant the folder is a repository that clients accept.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        before = self.read()
        changed = {name: data for name, data in files.items() if before.get(name) != data}
        for name in sorted(changed, key=lambda name: (name == TIMESTAMP, name)):
            if name == TIMESTAMP:
                self._sync_folder()  # what it points to must be there
            self._replace(name, changed[name])
        self._sync_folder()
        for name in before.keys() - files.keys():
            (self._folder / name).unlink(missing_ok=True)

    def _replace(self, name: str, data: bytes) -> None:
        if Path(name).name != name or not name.endswith(".json"):
            raise ValueError(f"not the name of a metadata file: {name!r}")
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
