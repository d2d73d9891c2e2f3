"""Runs every benchmark of this folder and prints its table: `make bench`, or name some.

    python benchmarks/run.py [NAME ...]

Each is a program of its own (`python benchmarks/NAME.py`), so that none inherits another's memory.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; return how many failed."""
    known = sorted(p.stem for p in HERE.glob("*.py") if p.stem != "run" and p.stem[0] != "_")
    unknown = sorted(set(names) - set(known))
    if {"-h", "--help"} & set(names):
        print(f"{__doc__}\nNames: {', '.join(known)}")
        return 0
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or known:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, HERE / f"{name}.py"]).returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
