"""One job of the delta benchmark, measured: run as a program, so that nothing else is counted.

    python _delta_job.py METHOD encode|apply OLD NEW PATCH

Prints JSON: bytes of the patch, CPU seconds, and peak memory above the interpreter with its
imports, in MiB.
"""

import json
import lzma
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bsdiff4
import numpy as np  # noqa: F401  (counted as an import, not as the job's memory)
import zstandard

from edgec_bundle.delta.tensor import PLANES_ONLY, TENSOR, encode, engine
from edgec_bundle.delta.tensor.coders import PLANES, RANS
from edgec_bundle.store import FileReader

NUMPY = "tensor (numpy)"  # applied without edgec-accel; encoded as "tensor"
MADE = "made"  # beside the patch: what applying it made
_WINDOW_LOG = 27


def main() -> None:
    """Run one job."""
    method, action, *names = sys.argv[1:]
    old, new, patch = (Path(name) for name in names)
    job = (ENCODERS if action == "encode" else APPLIERS)[method]
    _reset_peak()
    before, start = _peak_bytes(), time.process_time()
    children = os.times()
    job(old, new, patch)
    after = os.times()
    spent = time.process_time() - start
    spent += after.children_user + after.children_system
    spent -= children.children_user + children.children_system
    peak = None if method == "xdelta3" else (_peak_bytes() - before) / 2**20
    print(json.dumps({"bytes": patch.stat().st_size, "cpu_s": spent, "peak_mib": peak}))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("expected Linux")


class _Out:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")

    def append(self, data: bytes) -> None:
        self._stream.write(data)

    def close(self) -> None:
        self._stream.close()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _tensor_encode(coders: frozenset[int]) -> Callable[[Path, Path, Path], None]:
    def job(old: Path, new: Path, patch: Path) -> None:
        with patch.open("wb") as stream:
            for piece in encode(_mapped(old), _mapped(new), coders):
                stream.write(piece)

    return job


def _tensor_apply(old: Path, new: Path, patch: Path, planes: bool = False) -> None:
    out = _Out(patch.with_suffix("." + MADE))
    apply = (PLANES_ONLY if planes else TENSOR).apply
    apply(FileReader(patch), FileReader(old), out, new.stat().st_size)
    out.close()


def _numpy_apply(old: Path, new: Path, patch: Path) -> None:
    engine.use_compiled(False)
    _tensor_apply(old, new, patch)


def _level(new: Path) -> int:
    return 19 if new.stat().st_size < 8 << 20 else 9


def _zstd(old: Path, new: Path, patch: Path) -> None:
    patch.write_bytes(zstandard.ZstdCompressor(level=_level(new)).compress(new.read_bytes()))


def _zstd_apply(old: Path, new: Path, patch: Path) -> None:
    made = zstandard.ZstdDecompressor().decompress(patch.read_bytes())
    patch.with_suffix("." + MADE).write_bytes(made)


def _prefix(old: Path, new: Path, patch: Path) -> None:
    before, after = old.read_bytes(), new.read_bytes()
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _level(new),
        window_log=min(_WINDOW_LOG, max(10, (len(before) + len(after)).bit_length())),
        enable_ldm=len(after) > 1 << 20,
    )
    seen = zstandard.ZstdCompressionDict(before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=seen)
    patch.write_bytes(compressor.compress(after))


def _prefix_apply(old: Path, new: Path, patch: Path) -> None:
    seen = zstandard.ZstdCompressionDict(old.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    decompressor = zstandard.ZstdDecompressor(dict_data=seen, max_window_size=1 << _WINDOW_LOG)
    patch.with_suffix("." + MADE).write_bytes(decompressor.decompress(patch.read_bytes()))


def _xz(old: Path, new: Path, patch: Path) -> None:
    patch.write_bytes(lzma.compress(new.read_bytes(), preset=6))


def _xz_apply(old: Path, new: Path, patch: Path) -> None:
    patch.with_suffix("." + MADE).write_bytes(lzma.decompress(patch.read_bytes()))


def _bsdiff(old: Path, new: Path, patch: Path) -> None:
    bsdiff4.file_diff(str(old), str(new), str(patch))


def _bsdiff_apply(old: Path, new: Path, patch: Path) -> None:
    bsdiff4.file_patch(str(old), str(patch.with_suffix("." + MADE)), str(patch))


def _xdelta(old: Path, new: Path, patch: Path) -> None:
    window = str(max(1 << 19, old.stat().st_size))
    options = ["-9", "-S", "lzma", "-B", window]
    subprocess.run(["xdelta3", "-e", "-f", *options, "-s", old, new, patch], check=True)


def _xdelta_apply(old: Path, new: Path, patch: Path) -> None:
    made = patch.with_suffix("." + MADE)
    subprocess.run(["xdelta3", "-d", "-f", "-s", old, patch, made], check=True)


def _hdiff(old: Path, new: Path, patch: Path) -> None:
    import hdiffpatch

    made = hdiffpatch.diff(old.read_bytes(), new.read_bytes(), compression="lzma2")
    patch.write_bytes(made)


def _hdiff_apply(old: Path, new: Path, patch: Path) -> None:
    import hdiffpatch

    made = hdiffpatch.apply(old.read_bytes(), patch.read_bytes())
    patch.with_suffix("." + MADE).write_bytes(made)


def available() -> tuple[str, ...]:
    """Return the methods that can run here, in the order of the table."""
    import importlib.util

    missing = set() if shutil.which("xdelta3") else {"xdelta3"}
    if importlib.util.find_spec("hdiffpatch") is None:
        missing.add("hdiffpatch")
    return tuple(name for name in ENCODERS if name not in missing)


ENCODERS: dict[str, Callable[[Path, Path, Path], None]] = {
    "zstd": _zstd,
    "xz": _xz,
    "bsdiff4": _bsdiff,
    "zstd-prefix": _prefix,
    "xdelta3": _xdelta,
    "hdiffpatch": _hdiff,
    "tensor-planes": _tensor_encode(frozenset((PLANES,))),
    "tensor": _tensor_encode(frozenset((PLANES, RANS))),
}
APPLIERS: dict[str, Callable[[Path, Path, Path], None]] = {
    "zstd": _zstd_apply,
    "xz": _xz_apply,
    "bsdiff4": _bsdiff_apply,
    "zstd-prefix": _prefix_apply,
    "xdelta3": _xdelta_apply,
    "hdiffpatch": _hdiff_apply,
    "tensor-planes": lambda old, new, patch: _tensor_apply(old, new, patch, planes=True),
    "tensor": _tensor_apply,
    NUMPY: _numpy_apply,
}

if __name__ == "__main__":
    main()
