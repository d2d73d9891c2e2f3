"""How far the latency estimate is from the measurement on this machine.

    python benchmarks/estimates.py [MODEL ...]

MODEL: TFLite or ONNX files with fixed shapes. Without any, the digits model is compiled for this
machine in every precision. Each is run on one thread, in turns, and the fastest of the runs is
taken: whatever else this machine does only adds to the others. Prints one line per model and the
geometric mean and worst of estimate / measurement.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgec_bundle.archive import open_bundle
from edgec_compiler.estimating import estimate_payload
from edgec_hardware_profiles import load
from edgec_runtime.session import Session, load_session

_DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits"
_TARGETS = {
    "tflite": ("generic-x86_64-tflite", "litert"),
    "onnx": ("generic-x86_64", "onnxruntime"),
}
_RUNS, _BATCH = 40, 8


def digits() -> dict[str, tuple[bytes, str]]:
    """Return {name: (model, format)} of the digits model for this machine."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for fmt, (target, _) in _TARGETS.items():
            for precision in ("fp32", "int8"):
                out = f"{folder}/{fmt}-{precision}"
                command = ["compile", str(_DIGITS / "1.0.0.onnx"), "--target", target]
                command += ["--calibration", str(_DIGITS / "calibration.npz"), "--out", out]
                command += ["--preprocessing", str(_DIGITS / "steps.toml")]
                program = "from edgec_compiler.cli import main; raise SystemExit(main())"
                subprocess.run(
                    [sys.executable, "-c", program, *command, "--precision", precision],
                    check=True,
                    capture_output=True,
                )
                made[f"digits {precision}.{fmt}"] = (open_bundle(out).read("model"), fmt)
    return made


def fastest_ms(session: Session) -> float:
    """Return the least time of one inference on random inputs."""
    draw = np.random.default_rng(0)
    feeds = {
        t.name: (draw.random([max(size, 1) for size in t.shape]) * 100).astype(t.dtype)
        for t in session.inputs
    }
    session.run(feeds)
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        for _ in range(_BATCH):
            session.run(feeds)
        times.append((time.perf_counter() - start) / _BATCH)
    return min(times) * 1e3


def main() -> int:
    """Print estimate and measurement of each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="*", type=Path)
    given = {path.name: (path.read_bytes(), path.suffix[1:]) for path in parser.parse_args().model}
    ratios = []
    for name, (payload, fmt) in (given or digits()).items():
        target, runtime = _TARGETS[fmt]
        estimate = estimate_payload(payload, fmt, load(target))
        assert estimate is not None
        session = load_session(payload, runtime)
        measured = fastest_ms(session)
        session.close()
        ratios.append(estimate.ms / measured)
        line = {"model": name, "macs": estimate.macs, "estimate_ms": round(estimate.ms, 4)}
        line |= {"measured_ms": round(measured, 4), "ratio": round(ratios[-1], 2)}
        print(json.dumps(line), flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    worst = max(ratios, key=lambda ratio: abs(math.log(ratio)))
    host = f"{platform.machine()} {platform.system()}"
    print(json.dumps({"host": host, "mean_ratio": round(mean, 2), "worst_ratio": round(worst, 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
