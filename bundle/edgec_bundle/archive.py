"""A bundle on disk: a folder, or the same as one .edgeb file.

A reader finds a file by its role in the manifest, and checks size and sha256 before it hands out
a byte. Nothing here decides whether the manifest itself may be trusted (`edgec_bundle.trust`).

The layout of .edgeb files is docs/reference/bundle.md, to the byte.
"""

import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgec_bundle._files import fsync_folder, replace_folder, replacing, write_file
from edgec_bundle._zip import Member, read_directory, write_members
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import ArchiveError, ManifestError
from edgec_bundle.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    NEIGHBOURS,
    ROLES,
    FileEntry,
    Manifest,
)
from edgec_bundle.store import FileReader

SUFFIX = ".edgeb"
MAX_NEIGHBOUR_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of one file lie; `crc32` if they are a member of an archive."""

    file: Path
    offset: int
    size: int
    crc32: int | None = None

    def read(self) -> bytes:
        with FileReader(self.file) as reader:
            data = reader.pread(self.size, self.offset)
        if self.crc32 is not None and zlib.crc32(data) != self.crc32:
            raise ValueError("expected each member to have its checksum")
        return data


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was opened: its manifest is well-formed, its files are checked when read."""

    manifest: Manifest
    manifest_bytes: bytes
    path: Path
    _places: Mapping[str, _Place]  # by path in the bundle

    @property
    def digest(self) -> str:
        """The bundle's identity: sha256 of the manifest."""
        return sha256_hex(self.manifest_bytes)

    def read(self, role: str) -> bytes:
        """Return the file with `role`, verified against the manifest.

        Raises:
            ManifestError: no file has this role.
            ArchiveError: the file is missing, or isn't the one that the manifest pins.
        """
        entry = self.manifest.entry(role)
        data = self._read_at(entry.path)
        if len(data) != entry.bytes or sha256_hex(data) != entry.sha256:
            raise ArchiveError(
                f"{self.path}: expected {entry.path} with {entry.bytes} bytes and sha256 "
                f"{entry.sha256}, got {len(data)} bytes and {sha256_hex(data)}"
            )
        return data

    def verify(self) -> None:
        """Return if every file is the one that the manifest pins. Raises ArchiveError."""
        for entry in self.manifest.files:
            self.read(entry.role)

    def neighbour(self, name: str) -> bytes | None:
        """Return the unpinned file `name` (one of `NEIGHBOURS`) beside the bundle's own, if any.

        Nothing vouches for its bytes.
        """
        if name not in NEIGHBOURS:
            raise ValueError(f"expected one of {', '.join(NEIGHBOURS)}, got {name}")
        return self._read_at(name) if name in self._places else None

    def _read_at(self, path: str) -> bytes:
        if path not in self._places:
            raise ArchiveError(f"{self.path}: expected a file {path}, got none")
        with _reading(self.path):
            return self._places[path].read()


def is_bundle(path: Path) -> bool:
    """Return whether `path` looks like a bundle: a folder with a manifest, or an .edgeb file."""
    return (path / MANIFEST_NAME).is_file() or (path.suffix == SUFFIX and path.is_file())


def open_bundle(path: Path | str) -> Bundle:
    """Return the bundle at `path`, a folder or an .edgeb file.

    Only the manifest is read; each file is checked when it is read, or all by `Bundle.verify`.

    Raises:
        ArchiveError: there is no readable bundle at `path`.
        ManifestError: its manifest is not well-formed.
    """
    path = Path(path)
    try:
        with _reading(path):
            return _open_folder(path) if path.is_dir() else _open_archive(path)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def write_bundle(
    out_dir: Path | str,
    manifest: Manifest,
    contents: Mapping[str, tuple[str, bytes]],
    neighbours: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle as the folder `out_dir`, whole or not at all, and return it.

    An earlier bundle at `out_dir` is replaced, with its neighbours.

    Args:
        out_dir: does not exist, or is empty, or holds a bundle and nothing else.
        manifest: all but `Manifest.files`.
        contents: for each role the path inside the bundle and the bytes.
        neighbours: unpinned files to put beside, by name (of `NEIGHBOURS`).

    Raises:
        ArchiveError: `out_dir` holds something else, or can't be written.
        ManifestError: a role or path is not allowed, or there is no model.
    """
    roles = sorted(contents, key=lambda role: (_rank(role), role))
    files = tuple(_pinned(role, *contents[role]) for role in roles)
    payload = replace(manifest, files=files).to_bytes()
    written = {MANIFEST_NAME: payload, **{contents[role][0]: contents[role][1] for role in roles}}
    for name, data in (neighbours or {}).items():
        if name not in NEIGHBOURS:
            raise ValueError(f"expected one of {', '.join(NEIGHBOURS)}, got {name}")
        written[name] = data
    return _save_folder(Path(out_dir), written)


def restore_bundle(out: Path | str, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write the bundle of exactly this `manifest`, whole or not at all, and return it.

    Args:
        out: as for `write_bundle`; or the name of an .edgeb file.
        manifest: complete.
        files: for each role that it names the bytes that it pins.

    Raises:
        ArchiveError: bytes are missing or other than pinned, or `out` can't be written.
    """
    members = {MANIFEST_NAME: manifest.to_bytes()}
    for entry in manifest.files:
        data = files.get(entry.role)
        if data is None or _pinned(entry.role, entry.path, data) != entry:
            raise ArchiveError(f"expected the pinned bytes of {entry.path}, got others")
        members[entry.path] = data
    if Path(out).suffix == SUFFIX:
        return _save_archive(Path(out), iter(members.items()))
    return _save_folder(Path(out), members)


def pack_bundle(bundle: Bundle, out: Path | str, neighbours: Sequence[str] = ()) -> Bundle:
    """Write `bundle` as the .edgeb file `out`, whole or not at all, and return it.

    Equal bundles give equal bytes. Of the unpinned files beside the bundle only the named
    `neighbours` are packed.

    Raises:
        ArchiveError: a file is not what the manifest pins, a neighbour isn't there, or `out`
            can't be written.
    """

    def members() -> Iterator[tuple[str, bytes]]:
        yield MANIFEST_NAME, bundle.manifest_bytes
        for entry in bundle.manifest.files:
            yield entry.path, bundle.read(entry.role)
        for name in sorted(set(neighbours), key=NEIGHBOURS.index):
            data = bundle.neighbour(name)
            if data is None:
                raise ArchiveError(f"{bundle.path}: expected a file {name}, got none")
            yield name, data

    return _save_archive(Path(out), members())


def _save_archive(out: Path, members: Iterator[tuple[str, bytes]]) -> Bundle:
    with _writing(out), replacing(out) as temporary, open(temporary, "xb") as stream:
        write_members(stream.write, members)
        stream.flush()
        os.fsync(stream.fileno())
    return open_bundle(out)


def _save_folder(out: Path, files: Mapping[str, bytes]) -> Bundle:
    out = out.absolute()
    check_replaceable(out)
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = out.with_name(f".{out.name[:100]}.{secrets.token_hex(6)}.tmp")
        try:
            _write_folder(fresh, files)
            replace_folder(fresh, out)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return open_bundle(out)


def _open_folder(path: Path) -> Bundle:
    manifest_file = path / MANIFEST_NAME
    size = manifest_file.stat().st_size
    manifest, payload = _read_manifest(_Place(manifest_file, 0, size))
    places: dict[str, _Place] = {}
    for name, limit in (
        *((entry.path, entry.bytes) for entry in manifest.files),
        *((name, MAX_NEIGHBOUR_BYTES) for name in NEIGHBOURS),
    ):
        file = path / name
        if file.is_file():
            size = file.stat().st_size
            places[name] = _Place(file, 0, min(size, limit + 1))
    return Bundle(manifest, payload, path, places)


def _open_archive(path: Path) -> Bundle:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        members = read_directory(fd)
    finally:
        os.close(fd)
    if not members or members[0].name != MANIFEST_NAME:
        raise ArchiveError(f"{path}: expected {MANIFEST_NAME} as the first member")
    places = {one.name: _Place(path, one.offset, one.bytes, one.crc32) for one in members}
    manifest, payload = _read_manifest(places[MANIFEST_NAME])
    _check_members(path, members[1:], manifest.files)
    return Bundle(manifest, payload, path, places)


def _check_members(path: Path, members: Sequence[Member], files: Sequence[FileEntry]) -> None:
    """Refuse an archive whose members are not exactly the pinned files, then neighbours."""
    pinned, beside = members[: len(files)], members[len(files) :]
    for entry, member in zip(files, pinned, strict=False):
        if (member.name, member.bytes) != (entry.path, entry.bytes):
            raise ArchiveError(
                f"{path}: expected {entry.path} with {entry.bytes} bytes, "
                f"got {member.name[:80]} with {member.bytes}"
            )
    if len(pinned) != len(files):
        raise ArchiveError(f"{path}: expected {len(files)} files, got {len(pinned)}")
    names = [member.name for member in beside]
    if names != [name for name in NEIGHBOURS if name in names]:
        raise ArchiveError(f"{path}: expected no other members, got {', '.join(names)[:200]}")
    if any(member.bytes > MAX_NEIGHBOUR_BYTES for member in beside):
        raise ArchiveError(f"{path}: expected at most {MAX_NEIGHBOUR_BYTES} bytes beside")


def _read_manifest(place: _Place) -> tuple[Manifest, bytes]:
    if place.size > MAX_MANIFEST_BYTES:
        raise ManifestError(f"expected at most {MAX_MANIFEST_BYTES} bytes, got {place.size}")
    payload = place.read()
    return Manifest.from_bytes(payload), payload


def _pinned(role: str, path: str, data: bytes) -> FileEntry:
    return FileEntry(role, path, len(data), sha256_hex(data))


def _rank(role: str) -> int:
    return ROLES.index(role) if role in ROLES else len(ROLES)


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, data)
    for parent in {(folder / name).parent for name in files}:
        fsync_folder(parent)


def check_replaceable(out: Path) -> None:
    """Refuse to write a bundle over anything but a bundle.

    Raises:
        ArchiveError: `out` is neither absent, nor empty, nor the folder of a bundle alone.
    """
    with _reading(out):
        _check_replaceable(out)


def _check_replaceable(out: Path) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise ArchiveError(f"expected {out} to be a folder or nothing")
    found = {
        file.relative_to(out).as_posix()
        for file in out.rglob("*")
        if file.is_symlink() or not file.is_dir()
    }
    if not found:
        return
    try:
        manifest = _open_folder(out).manifest
        known = {MANIFEST_NAME, *NEIGHBOURS, *(entry.path for entry in manifest.files)}
    except (OSError, ManifestError):
        known = set()
    if strangers := found - known:
        raise ArchiveError(
            f"expected {out} to be empty or a bundle, but it holds {sorted(strangers)[0]}"
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveError(f"{path}: expected a bundle, but {error.filename} is missing") from error
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}: {error}") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else None
        raise ArchiveError(f"{path} can't be written: {said or error}") from error
