"""The samples that a compile run uses: calibration, evaluation, and noise where there are none."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgec_bundle.manifest import TensorSpec
from edgec_compiler.errors import UsageError
from edgec_compiler.interface import Interface
from edgec_runtime.data import Data, load_data
from edgec_runtime.errors import DataError, RunError
from edgec_runtime.processing import Preprocessing, RawInput
from edgec_runtime.session import Array

NOISE_SAMPLES = 16
_NOISE_SIDE = 64
_PORTION = 16


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw samples, where they come from, and the digest of that."""

    data: Data
    origin: str  # "evaluation" | "calibration" | "noise"
    sha256: str | None


def load_samples(path: Path, origin: str, labels: Sequence[str], interface: Interface) -> Samples:
    """Return the data at `path`, fitted to the public inputs.

    Raises:
        UsageError: unreadable, or not what the public inputs take.
    """
    try:
        data = load_data(path, labels).bound(interface.inputs)
        Preprocessing.parse(interface.inputs, interface.preprocessing).run(data.rows(0, 1).inputs)
    except DataError as error:
        raise UsageError(f"--{origin}: {error}") from error
    except RunError as error:
        raise UsageError(f"--{origin} {path}: {error}") from error
    return Samples(data, origin, digest_of(path))


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
    samples: Samples, interface: Interface, names: Sequence[str]
) -> Iterator[Mapping[str, Array]]:
    """Yield one model feed per sample, [1, ...] each, in bounded memory.

    Args:
        samples: raw.
        interface: whose preprocessing leads to the model's tensors.
        names: of the model's inputs, in the order of the public ones.

    Raises:
        UsageError: a sample is refused by a step.
    """
    preprocessing = Preprocessing.parse(interface.inputs, interface.preprocessing)
    for portion in samples.data.portions(_PORTION):
        try:
            prepared = preprocessing.run(portion.inputs)
        except RunError as error:
            raise UsageError(f"--{samples.origin}: {error}") from error
        values = list(prepared.values())
        for row in range(len(portion)):
            yield {
                name: np.ascontiguousarray(value[row : row + 1])
                for name, value in zip(names, values, strict=True)
            }
