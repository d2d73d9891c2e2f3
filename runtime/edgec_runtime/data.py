"""Raw samples to run a model on: an .npz, or a folder of images.

A sample is raw: what an application would pass, before any preprocessing. Image files are read
one by one when they are needed, so a folder may be larger than memory.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, overload

import numpy as np

from edgec_bundle.errors import ArrayError
from edgec_bundle.manifest import TensorSpec
from edgec_bundle.npz import read_npz
from edgec_runtime.errors import DataError, InputError, RunError
from edgec_runtime.processing import RawInput
from edgec_runtime.session import Array

MAX_DATA_BYTES = 8 << 30
_CHUNK_BYTES = 1 << 20
MAX_IMAGE_BYTES = 256 << 20
MAX_IMAGES = 10_000_000
_MAX_CSV_BYTES = 256 << 20
_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"))
_ONLY = "inputs"  # in an .npz: the model's only input, whatever it is called


@dataclass(frozen=True, slots=True)
class Data:
    """Raw inputs by name, each of N rows, and what each row is."""

    inputs: Mapping[str, RawInput]
    labels: Array | None = None  # int64 [N], or [N, ...] for maps
    names: tuple[str, ...] = ()  # where each row comes from, if from files

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, start: int, stop: int) -> "Data":
        """Return the rows start..stop - 1."""
        return Data(
            {name: value[start:stop] for name, value in self.inputs.items()},
            None if self.labels is None else self.labels[start:stop],
            self.names[start:stop],
        )

    def refused(self, error: InputError, start: int) -> RunError:
        """Return `error` about rows from `start` on as one about all, by the file if it has one."""
        moved = error.moved(start)
        if moved.row is None or not self.names:
            return moved
        return DataError(f"{self.names[moved.row]}: {moved.problem}")

    def take(self, indices: Sequence[int]) -> "Data":
        """Return the rows at `indices`, in their order."""
        chosen: dict[str, RawInput] = {}
        for name, value in self.inputs.items():
            array = isinstance(value, np.ndarray)
            chosen[name] = value[list(indices)] if array else [value[i] for i in indices]  # type: ignore[call-overload]
        return Data(
            chosen,
            None if self.labels is None else self.labels[list(indices)],
            tuple(self.names[i] for i in indices) if self.names else (),
        )

    def portions(self, size: int) -> Iterator["Data"]:
        """Yield the rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(start, start + size)

    def bound(self, specs: Sequence[TensorSpec]) -> "Data":
        """Return the same rows under the names and dtypes of the public inputs `specs`.

        `inputs` stands for the only input. Numbers of another dtype are cast if all of them
        keep their value (float64 to float32: to rounding).

        Raises:
            DataError: an input is missing, or is none of the model's.
        """
        given = dict(self.inputs)
        if len(specs) == 1 and given.keys() == {_ONLY}:
            given = {specs[0].name: given[_ONLY]}
        wanted = [spec.name for spec in specs]
        if given.keys() != set(wanted):
            raise DataError(f"expected inputs {', '.join(wanted)}, got {', '.join(sorted(given))}")
        fitted = {spec.name: _fitted(spec, given[spec.name]) for spec in specs}
        return Data(fitted, self.labels, self.names)


def _fitted(spec: TensorSpec, value: RawInput) -> RawInput:
    if not isinstance(value, np.ndarray) or value.dtype.name == spec.dtype or spec.dtype == "bytes":
        return value
    target = np.dtype(spec.dtype)
    with np.errstate(all="ignore"):
        cast = value.astype(target)
        same = value.dtype.kind == target.kind == "f" or np.array_equal(cast, value)
    return cast if same else value  # the pipeline then says what it expects


class _Files(Sequence[bytes]):
    """The contents of files, read when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> "_Files": ...
    def __getitem__(self, at: int | slice) -> "bytes | _Files":
        if isinstance(at, slice):
            return _Files(self._paths[at])
        return read_bounded(self._paths[at], MAX_IMAGE_BYTES)


def load_data(path: Path | str, labels: Sequence[str] = ()) -> Data:
    """Read an .npz file or a folder of images.

    Args:
        path: an .npz with `inputs`, or one array per public input, and optionally `labels`
            (integers); or a folder of images with `labels.csv` (file,label) or one subfolder per
            class, or neither.
        labels: names of the classes, to turn class names of a folder into numbers. Without them
            subfolders count in the order of their names, and labels in a csv must be numbers.

    Raises:
        DataError: nothing there, unreadable, or labels that fit nothing.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, labels)
    if not path.is_file():
        raise DataError(f"{path}: expected an .npz file or a folder of images, found nothing")
    return data_from_npz(read_bounded(path, MAX_DATA_BYTES), str(path))


def data_from_npz(payload: bytes, origin: str, max_bytes: int = MAX_DATA_BYTES) -> Data:
    """Read the bytes of an .npz of any origin; `origin` names it in messages.

    Raises:
        DataError: malformed, too large, without inputs, or with arrays of different lengths.
    """
    try:
        arrays: dict[str, Array] = read_npz(payload, max_bytes)
    except ArrayError as error:
        raise DataError(f"{origin}: {error}") from error
    labels = arrays.pop("labels", None)
    if not arrays:
        raise DataError(f"{origin}: expected an array 'inputs' or one per model input, got none")
    everything = [*arrays.items(), *([] if labels is None else [("labels", labels)])]
    first, rows = everything[0][0], _length(*everything[0], origin)
    for name, array in everything[1:]:
        if _length(name, array, origin) != rows:
            raise DataError(f"{origin}: '{first}' has {rows} rows, '{name}' has {len(array)}")
    if labels is not None:
        if labels.dtype.kind not in "iu":
            raise DataError(f"{origin}: expected integer labels, got {labels.dtype}")
        labels = labels.astype(np.int64)
    return Data(arrays, labels)


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the file's bytes. Raises DataError if it can't be read or has more than `limit`."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= limit:
                return _whole(file, size, limit)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    raise DataError(f"{path}: expected at most {limit} bytes, got {size}")


def _whole(file: IO[bytes], size: int, limit: int) -> bytes:
    """Return what is in `file` of `size` bytes; a pipe, whose size is 0, is read to `limit` + 1.

    To ask for `limit` at once would take that much memory, which few devices have.
    """
    chunks = [file.read(size + 1)]
    total = len(chunks[0])
    while size < total <= limit and (chunk := file.read(_CHUNK_BYTES)):
        chunks.append(chunk)
        total += len(chunk)
    return b"".join(chunks)


def _length(name: str, array: Array, origin: str) -> int:
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{origin}: expected rows in '{name}', got none")
    return len(array)


def _folder(folder: Path, labels: Sequence[str]) -> Data:
    table = folder / "labels.csv"
    numbers: list[int] | None
    if table.is_file():
        files, numbers = _from_csv(folder, table, labels)
    else:
        files, numbers = _from_subfolders(folder, labels)
    if not files:
        raise DataError(f"{folder}: expected images ({', '.join(sorted(_SUFFIXES))}), found none")
    return Data(
        {_ONLY: _Files(files)},
        None if numbers is None else np.array(numbers, np.int64),
        tuple(os.path.relpath(file, folder) for file in files),  # a csv may lead anywhere
    )


def _images(folder: Path) -> list[Path]:
    found = [entry for entry in folder.iterdir() if entry.suffix.lower() in _SUFFIXES]
    if len(found) > MAX_IMAGES:
        raise DataError(f"{folder}: expected at most {MAX_IMAGES} images, got {len(found)}")
    return sorted(found)


def _from_subfolders(folder: Path, labels: Sequence[str]) -> tuple[list[Path], list[int] | None]:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        return _images(folder), None
    files, numbers = [], []
    for position, subfolder in enumerate(classes):
        number = _number(subfolder.name, labels, str(subfolder)) if labels else position
        images = _images(subfolder)
        files += images
        numbers += [number] * len(images)
    return files, numbers


def _from_csv(folder: Path, table: Path, labels: Sequence[str]) -> tuple[list[Path], list[int]]:
    try:
        text = read_bounded(table, _MAX_CSV_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: not UTF-8 at byte {error.start}") from error
    files, numbers = [], []
    for line, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if not row or (line == 1 and [cell.strip() for cell in row] == ["file", "label"]):
            continue
        where = f"{table}, line {line}"
        if len(row) != 2:
            raise DataError(f"{where}: expected file,label, got {len(row)} columns")
        file = folder / row[0].strip()
        if not file.is_file():
            raise DataError(f"{where}: no file '{row[0]}'")
        files.append(file)
        numbers.append(_number(row[1].strip(), labels, where))
    return files, numbers


def _number(text: str, labels: Sequence[str], where: str) -> int:
    if text in labels:
        return list(labels).index(text)
    if text.isdecimal() and len(text) < 10:
        return int(text)
    raise DataError(f"{where}: '{text}' is neither a number nor one of the model's labels")
