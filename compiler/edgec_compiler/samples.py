"""The samples that a compile run uses: calibration, evaluation, and noise where there are none."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from edgec_bundle.manifest import TensorSpec
from edgec_compiler.errors import UsageError
from edgec_compiler.interface import Interface
from edgec_runtime.data import Data, load_data
from edgec_runtime.errors import DataError, InputError, RunError
from edgec_runtime.processing import Preprocessing, RawInput
from edgec_runtime.session import Array

NOISE_SAMPLES = 16
_NOISE_SIDE = 64
_PORTION = 16
_GOLDEN = 2654435769  # 2**32 times the golden section: multiples of it fill the circle evenly


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw samples, where they come from, and the digest of that."""

    data: Data
    origin: str  # "evaluation" | "calibration" | "noise"
    sha256: str | None
    path: str = ""  # as it was given

    @property
    def option(self) -> str:
        """Return what named them, for messages: "--calibration samples.npz"."""
        return f"--{self.origin} {self.path}".rstrip()

    def spread(self, most: int, indices: Sequence[int] | None = None) -> "Samples":
        """Return at most `most` of the samples, of all or of those at `indices`.

        Any first part of them is spread evenly: files are often sorted by class or by day.
        """
        chosen = np.arange(len(self.data)) if indices is None else np.asarray(indices, np.int64)
        order = np.argsort(np.arange(len(chosen)) * _GOLDEN % 2**32, kind="stable")
        return replace(self, data=self.data.take(chosen[order[:most]].tolist()))


def load_samples(path: Path, origin: str, labels: Sequence[str], interface: Interface) -> Samples:
    """Return the data at `path`, fitted to the public inputs.

    Raises:
        UsageError: unreadable, or not what the public inputs take.
    """
    try:
        data = load_data(path, labels)
    except DataError as error:  # it names the file
        raise UsageError(f"--{origin}: {error}") from error
    try:
        data = data.bound(interface.inputs)
        Preprocessing.parse(interface.inputs, interface.preprocessing).run(data.rows(0, 1).inputs)
    except RunError as error:
        raise UsageError(f"--{origin} {path}: {error}") from error
    return Samples(data, origin, digest_of(path), str(path))


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's files with their names, in order."""
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(path.read_bytes())
        return digest.hexdigest()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def noise(interface: Interface, seed: int) -> Samples:
    """Return uniform noise for the public inputs: good for agreement, not for accuracy."""
    draw = np.random.default_rng(seed)
    inputs = {spec.name: _noise(spec, draw) for spec in interface.inputs}
    return Samples(Data(inputs), "noise", None)


def _noise(spec: TensorSpec, draw: np.random.Generator) -> RawInput:
    if spec.dtype == "bytes":
        pixels = draw.integers(0, 256, (NOISE_SAMPLES, _NOISE_SIDE, _NOISE_SIDE, 3), np.uint8)
        return [_png(image) for image in pixels]
    shape = (NOISE_SAMPLES, *(_NOISE_SIDE if size == -1 else size for size in spec.shape[1:]))
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return draw.random(shape).astype(dtype)
    return draw.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)


def _png(pixels: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def feeds(
    samples: Samples, interface: Interface, names: Sequence[str], batch: int = 1
) -> Iterator[Mapping[str, Array]]:
    """Yield model feeds of `batch` samples, [batch, ...] each, in bounded memory.

    Where the samples do not fill the last batch, the last of them is repeated.

    Args:
        samples: raw.
        interface: whose preprocessing leads to the model's tensors.
        names: of the model's inputs, in the order of the public ones.
        batch: how many samples the model takes at once.

    Raises:
        UsageError: a sample is refused by a step.
    """
    preprocessing = Preprocessing.parse(interface.inputs, interface.preprocessing)
    size = max(1, _PORTION // batch) * batch
    for number, portion in enumerate(samples.data.portions(size)):
        try:
            prepared = preprocessing.run(portion.inputs)
        except InputError as error:
            refused = samples.data.refused(error, number * size)
            raise UsageError(f"{samples.option}: {refused}") from error
        except RunError as error:
            raise UsageError(f"{samples.option}: {error}") from error
        values = list(prepared.values())
        for row in range(0, len(portion), batch):
            yield {
                name: _batch(value[row : row + batch], batch)
                for name, value in zip(names, values, strict=True)
            }


def _batch(value: Array, batch: int) -> Array:
    missing = batch - len(value)
    if missing:
        value = np.concatenate([value, np.repeat(value[-1:], missing, axis=0)])
    return np.ascontiguousarray(value)
