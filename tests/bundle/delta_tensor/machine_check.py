"""Prove that this machine makes the same bytes as all others; no test runner needed.

    python tests/bundle/delta_tensor/machine_check.py [PAIRS PATCHES]

Reads every golden patch and codes every golden lot, in numpy and, where installed, in C. With
PAIRS, a folder of models (``cnn_base_int8.onnx`` and its like), writes their patches to the
folder PATCHES on one machine, and on another, where they are there already, applies them. Run it
under qemu-user with another machine's Python and numpy to prove that architecture.
"""

import json
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "bundle")]

from delta_lots import LANE_GOLDENS, lane_digest  # noqa: E402

from edgec_bundle.delta.tensor import PLANES_ONLY, TENSOR, engine  # noqa: E402
from edgec_bundle.store import BytesReader  # noqa: E402

GOLDENS = Path(__file__).parents[1] / "delta_goldens"


class Sink:
    """An appender that remembers."""

    def __init__(self) -> None:
        self.data = bytearray()

    def append(self, data: bytes) -> None:
        self.data += data


def check(form: str, body: bytes, old: bytes, new: bytes) -> None:
    sink = Sink()
    apply = (TENSOR if form == "tensor" else PLANES_ONLY).apply
    apply(BytesReader(body), BytesReader(old), sink, len(new))
    assert sink.data == new, form


def main() -> None:
    compiled = engine.is_compiled()
    lots = json.loads((GOLDENS / "lanes.json").read_text())["lots"]
    assert {name: lane_digest(name) for name in LANE_GOLDENS} == lots
    for path in sorted(GOLDENS.glob("*.old")):
        old, new = path.read_bytes(), path.with_suffix(".new").read_bytes()
        for form in ("tensor", "tensor-planes"):
            body = path.with_suffix(f".{form}").read_bytes()
            for use in {True: (True, False), False: (False,)}[compiled]:
                engine.use_compiled(use)
                check(form, body, old, new)
    engine.use_compiled(compiled)
    print(f"{platform.machine()}: golden lots and patches agree, compiled: {compiled}")
    if len(sys.argv) == 3:
        print(f"{platform.machine()}: {_exchange(Path(sys.argv[1]), Path(sys.argv[2]))}")


def _exchange(pairs: Path, patches: Path) -> str:
    is_writer = not patches.is_dir()
    patches.mkdir(exist_ok=True)
    count = 0
    for path in sorted(pairs.glob("cnn_*.onnx")):
        old = (pairs / f"cnn_base_{path.stem.rpartition('_')[2]}.onnx").read_bytes()
        new = path.read_bytes()
        for form, encode in (("tensor", TENSOR.encode), ("tensor-planes", PLANES_ONLY.encode)):
            patch = patches / f"{path.stem}.{form}"
            if is_writer:
                patch.write_bytes(encode(old, new, 1 << 30))
            check(form, patch.read_bytes(), old, new)
            count += 1
    return f"{count} patches of real pairs {'written' if is_writer else 'make the same bytes here'}"


if __name__ == "__main__":
    main()
