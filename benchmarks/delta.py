"""How small, quick and lean deltas of models are, against other ways: one table over all pairs.

    python benchmarks/delta.py [--large] [--methods NAME,NAME] [--pairs TEXT]

Each method runs in a process of its own, is applied, and what it makes is compared. CPU is of the
process; peak memory is above the interpreter with its imports. `--large` adds models of 24 MB
(int8), 47 MB (fp16) and 94 MB (fp32), made here; bsdiff4 and HDiffPatch take minutes and
gigabytes there and are left out above 32 MB. xdelta3 and HDiffPatch are measured where installed.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import _delta_job
from _delta_job import NUMPY
from _delta_pairs import Pair, large_pair, small_pairs

from edgec_bundle.delta.tensor import engine, numbers
from edgec_bundle.delta.tensor.index import tensors_of
from edgec_bundle.delta.tensor.matching import candidates

JOB = Path(__file__).parent / "_delta_job.py"
LARGE = (("int8", "light"), ("int8", "med"), ("fp16", "med"), ("fp32", "light"))
WHOLE_FILE = ("bsdiff4", "hdiffpatch", "xz", "zstd-prefix", "xdelta3")
WHOLE_FILE_BYTES = 32_000_000


def main() -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="models of 24 to 94 MB too")
    parser.add_argument("--methods", default=",".join(_delta_job.available()))
    parser.add_argument("--pairs", default="", help="only pairs whose name holds this")
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    if unknown := set(methods) - set(_delta_job.available()):
        parser.error(f"--methods: {sorted(unknown)} is not one of {_delta_job.available()}")
    print(f"lanes run by: {'edgec-accel' if engine.is_compiled() else 'numpy'}\n")
    ratios: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    print("| pair | new bytes | H0 | " + " | ".join(methods) + " | tensor / bsdiff4 |")
    print("|---|---|---|" + "---|" * (len(methods) + 1))
    large: list[tuple[str, dict[str, dict[str, float]]]] = []
    for pair in _pairs(arguments.large, arguments.pairs):
        found = measure(pair, methods)
        print(_row(pair, found, methods), flush=True)
        if "bsdiff4" in found:
            for method, result in found.items():
                ratio = result["bytes"] / found["bsdiff4"]["bytes"]
                ratios[pair.kind][method].append(ratio)
        if len(pair.new) > 1 << 20 or "int8" in pair.name:
            large.append((pair.name, found))
    _print_classes(ratios, methods)
    _print_costs(large)
    return 0


def _pairs(with_large: bool, wanted: str) -> Iterator[Pair]:
    """Return the pairs whose name holds `wanted`."""
    yield from (pair for pair in small_pairs() if wanted in pair.name)
    for form, kind in LARGE if with_large else ():
        if wanted in f"made {form} {kind}":
            yield large_pair(form, kind)


def measure(pair: Pair, methods: list[str]) -> dict[str, dict[str, float]]:
    """Return bytes, CPU seconds and peak MiB of each method."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder, "old"), Path(folder, "new")
        old.write_bytes(pair.old)
        new.write_bytes(pair.new)
        for method in methods:
            if method in WHOLE_FILE and len(pair.new) > WHOLE_FILE_BYTES:
                continue
            patch = Path(folder, f"{method}.patch")
            encoded = _run(method, "encode", old, new, patch)
            found[method] = _joined(encoded, _applied(method, old, new, patch))
            if method == "tensor" and engine.is_compiled():
                slow = _applied(NUMPY, old, new, patch)
                found[NUMPY] = _joined(encoded, slow)
    return found


def _applied(method: str, old: Path, new: Path, patch: Path) -> dict[str, float]:
    result = _run(method, "apply", old, new, patch)
    made = patch.with_suffix("." + _delta_job.MADE)
    if made.read_bytes() != new.read_bytes():
        raise RuntimeError(f"{method} made another file")
    made.unlink()
    return result


def _run(method: str, action: str, *paths: Path) -> dict[str, float]:
    command = [sys.executable, str(JOB), method, action, *map(str, paths)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _joined(encoded: dict[str, float], applied: dict[str, float]) -> dict[str, float]:
    return {
        "bytes": encoded["bytes"],
        "encode_cpu_s": encoded["cpu_s"],
        "encode_peak_mib": encoded["peak_mib"],
        "apply_cpu_s": applied["cpu_s"],
        "apply_peak_mib": applied["peak_mib"],
    }


def entropy_bytes(pair: Pair) -> float | None:
    """Return the zero-order entropy of new minus old, tensor by tensor; None for 32 bits.

    With 32 bits hardly two differences are equal, so it would only count the elements.
    """
    old, new = tensors_of(pair.old), tensors_of(pair.new)
    total = 0.0
    for tensor, sources in zip(new, candidates(old, new, pair.old, pair.new), strict=True):
        if numbers.bits_of(tensor.dtype) > 16 and tensor.elements > 4096:
            return None
        codes = numbers.codes_of(pair.new[tensor.offset : tensor.end], tensor.dtype)
        if sources and sources[0].size == tensor.size:
            source = sources[0]
            codes = codes - numbers.codes_of(pair.old[source.offset : source.end], tensor.dtype)
        _, counts = np.unique(codes, return_counts=True)
        total -= float((counts * np.log2(counts / counts.sum())).sum())
    return total / 8


def _row(pair: Pair, found: dict[str, dict[str, float]], methods: list[str]) -> str:
    entropy = entropy_bytes(pair)
    sizes = [f"{found[one]['bytes']:.0f}" if one in found else "" for one in methods]
    ratio = ""
    if "bsdiff4" in found and "tensor" in found:
        ratio = f"{found['tensor']['bytes'] / found['bsdiff4']['bytes']:.3f}"
    shown = "" if entropy is None else f"{entropy:.0f}"
    return " | ".join(["| " + pair.name, f"{len(pair.new)}", shown, *sizes, f"{ratio} |"])


def _print_classes(ratios: dict[str, dict[str, list[float]]], methods: list[str]) -> None:
    print("\nGeometric means of bytes against bsdiff4, by class of update\n")
    print("| class | pairs | " + " | ".join(methods) + " |")
    print("|---|---|" + "---|" * len(methods))
    every: dict[str, list[float]] = defaultdict(list)
    for kind in sorted(ratios):
        cells = [_mean(ratios[kind][method]) for method in methods]
        print(f"| {kind} | {len(ratios[kind]['bsdiff4'])} | " + " | ".join(cells) + " |")
        for method in methods:
            every[method] += ratios[kind][method]
    cells = [_mean(every[method]) for method in methods]
    print(f"| all | {len(every['bsdiff4'])} | " + " | ".join(cells) + " |")


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    return f"{math.exp(sum(math.log(value) for value in values) / len(values)):.3f}"


def _print_costs(rows: list[tuple[str, dict[str, dict[str, float]]]]) -> None:
    print("\nCPU seconds and peak memory above the interpreter with its imports\n")
    print("| pair | method | bytes | encode s | encode MiB | apply s | apply MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, found in rows:
        for method, one in found.items():
            if method not in ("bsdiff4", "tensor-planes", "tensor", NUMPY, "zstd-prefix"):
                continue
            cells = [
                f"{one['bytes']:.0f}",
                f"{one['encode_cpu_s']:.2f}",
                f"{one['encode_peak_mib']:.1f}",
                f"{one['apply_cpu_s']:.2f}",
                f"{one['apply_peak_mib']:.1f}",
            ]
            print(" | ".join(["| " + name, method, *cells]) + " |")


if __name__ == "__main__":
    sys.exit(main())
