"""`edgec run`: a bundle on raw inputs, as a device would run it."""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgec_compiler.cli.command import add_json, describe, print_json
from edgec_compiler.cli.opening import open_bundle_pipeline, say_stand_in
from edgec_compiler.errors import UsageError
from edgec_runtime.data import MAX_DATA_BYTES, MAX_IMAGE_BYTES, Data, data_from_npz, read_bounded
from edgec_runtime.errors import InputError
from edgec_runtime.pipeline import Pipeline

_SHOWN = 8  # values of an output that are printed for people
_NPZ = b"PK"
_NPY = b"\x93NUMPY"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec run build --input photo.jpg other.png --json", run)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .edgeb file")
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="FILE",
        help="image, .npy or .npz; each row of an array is an input",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per input."""
    # Pillow's warning of a large image: `decode_image` has a limit of its own, and says so.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    pipeline = open_bundle_pipeline(Path(arguments.bundle))
    say_stand_in(Path(arguments.bundle))
    try:
        for path in arguments.input:
            _run_file(Path(path), pipeline, as_json=arguments.json)
    finally:
        pipeline.close()
    return 0


def _run_file(path: Path, pipeline: Pipeline, *, as_json: bool) -> None:
    """Print a line per input of the file. Raises UsageError, which names the file."""
    try:
        for name, row in _rows(path, pipeline):
            line = _answer(pipeline, name, row)
            if as_json:
                print_json(line)
            else:
                print(_shown(line))
    except InputError as error:
        raise UsageError(f"{path}: {error}") from error


def _rows(path: Path, pipeline: Pipeline) -> Iterator[tuple[str, Data]]:
    """Yield each input in a file with its name: "photo.jpg", or "samples.npz[3]"."""
    head = _head(path) if path.is_file() else b""
    if head.startswith(_NPZ):
        data = data_from_npz(read_bounded(path, MAX_DATA_BYTES), str(path)).bound(
            pipeline.manifest.inputs
        )
        for row in range(len(data)):
            yield f"{path}[{row}]", data.rows(row, row + 1)
    elif head.startswith(_NPY):
        yield from _array_rows(path, pipeline)
    else:
        encoded = read_bounded(path, MAX_IMAGE_BYTES)
        yield str(path), Data({"inputs": [encoded]}).bound(pipeline.manifest.inputs)


def _head(path: Path) -> bytes:
    with path.open("rb") as source:
        return source.read(8)


def _array_rows(path: Path, pipeline: Pipeline) -> Iterator[tuple[str, Data]]:
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{path}: not a readable .npy file: {error}") from error
    specs = pipeline.manifest.inputs
    if len(specs) == 1 and array.ndim == len(specs[0].shape) - 1:
        array = array[None]  # one input without its row axis
    for row in range(len(array) if array.ndim else 0):
        data = Data({"inputs": np.asarray(array[row : row + 1])}).bound(specs)
        yield (str(path) if len(array) == 1 else f"{path}[{row}]"), data


def _answer(pipeline: Pipeline, name: str, row: Data) -> dict[str, Any]:
    start = time.perf_counter()
    outputs = pipeline.infer(row.inputs)
    elapsed = time.perf_counter() - start
    found = pipeline.predictions(outputs)
    best = found[0] if found else None
    label = None if best is None else best.label
    return {
        "input": name,
        "outputs": {output: value[0].tolist() for output, value in outputs.items()},
        "class": None if best is None else best.index,
        "label": label,
        "score": None if best is None else best.score,
        "elapsed_ms": round(elapsed * 1e3, 3),
    }


def _shown(line: dict[str, Any]) -> str:
    if line["class"] is not None:
        what = line["label"] if line["label"] is not None else f"class {line['class']}"
        score = "" if line["score"] is None else f"  {line['score']:.4f}"
        return f"{line['input']}: {what}{score}  ({line['elapsed_ms']:.2f} ms)"
    parts = []
    for output, value in line["outputs"].items():
        flat = np.ravel(value)
        more = f" ... ({flat.size} values)" if flat.size > _SHOWN else ""
        parts.append(f"{output} {np.array2string(flat[:_SHOWN], precision=4)}{more}")
    return f"{line['input']}: {'; '.join(parts)}  ({line['elapsed_ms']:.2f} ms)"
