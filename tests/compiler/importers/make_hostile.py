"""Damaged model files: truncated, bit-flipped, cut up; and a process that opens them.

`python make_hostile.py FILE ...` opens each file as the compiler's worker does and prints one JSON
object per line, so that a crash of a native library shows as a line that is missing.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgec_compiler.errors import CompilerError


def damaged(payload: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield `count` damaged copies, the same ones for the same seed."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        kind = number % 4
        copy = bytearray(payload)
        if kind == 0:
            yield bytes(copy[: int(draw.integers(1, len(copy)))])
            continue
        if kind == 1:  # bits anywhere
            for at in draw.integers(0, len(copy), 8):
                copy[at] ^= 1 << int(draw.integers(0, 8))
        elif kind == 2:  # bytes of the structure, which lies at the ends of most formats
            near = min(len(copy), 2048)
            for at in draw.integers(0, near, 6):
                place = int(at) if draw.random() < 0.5 else len(copy) - 1 - int(at)
                copy[place] = int(draw.integers(0, 256))
        else:  # a piece overwritten by another
            size = int(draw.integers(1, max(2, len(copy) // 8)))
            source, target = draw.integers(0, len(copy) - size + 1, 2)
            copy[target : target + size] = copy[source : source + size]
        yield bytes(copy)


def open_one(path: str) -> dict[str, object]:
    """Return how opening `path` ended: a description, or the refusal."""
    from edgec_compiler.importers import import_model

    try:
        source = import_model(path, {})
    except CompilerError as error:
        return {"file": path, "code": error.exit_code, "said": str(error)}
    return {"file": path, "code": 0, "said": source.format}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[1:]:
        print(json.dumps(open_one(str(Path(name)))), flush=True)
