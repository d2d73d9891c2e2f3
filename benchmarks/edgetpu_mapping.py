"""How well `edgec check` predicts what the Edge TPU's compiler maps, by pairs of real files.

    python benchmarks/edgetpu_mapping.py FOLDER

FOLDER and its subfolders: pairs X.tflite and X_edgetpu.tflite, the second made from the first by
edgetpu_compiler with its default options (google-coral/test_data on GitHub has some). An operator
is predicted right if the compiled file has it, by the names of the tensors that it makes, where the
prediction leaves it to the CPU, and lacks it where not. Prints a line per pair and one for all.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from edgec_compiler.errors import CompilerError
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.compiled import left_on_cpu
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import load

_PROFILE = load("coral-edgetpu")
_OWN = ("edgetpu-custom-op",)
_SUFFIX = "_edgetpu.tflite"
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Compared:
    """What is left to the CPU, by index of the source's operators."""

    names: tuple[str, ...]  # of all operators: "CONV_2D:3"
    predicted: frozenset[int]
    real: frozenset[int]

    @property
    def wrong(self) -> list[int]:
        """Operators whose place is predicted wrong."""
        return sorted(self.predicted ^ self.real)


def compare(source: Path, compiled: Path) -> Compared:
    """Return what of `source` the prediction and the real compiler leave to the CPU.

    Raises:
        CompilerError: a file is damaged, or they are not a pair.
    """
    graph = read_tflite(source.read_bytes(), str(source))
    makers = {graph.tensors[i].name: o.index for o in graph.operators for i in o.outputs}
    real = left_on_cpu(read_tflite(compiled.read_bytes(), str(compiled)), makers, _OWN)
    verdicts = check(graph, _PROFILE).ops
    predicted = frozenset(verdict.index for verdict in verdicts if verdict.on == "cpu")
    return Compared(tuple(f"{o.op}:{o.index}" for o in graph.operators), predicted, real)


def main() -> int:
    """Print prediction and reality of each pair."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    folder = parser.parse_args().folder
    operators = right = pairs = exact = 0
    for compiled in sorted(folder.rglob(f"*{_SUFFIX}")):
        source = compiled.with_name(compiled.name.removesuffix(_SUFFIX) + ".tflite")
        if not source.is_file():
            continue
        name = str(source.relative_to(folder).with_suffix(""))
        try:
            found = compare(source, compiled)
        except CompilerError as error:
            print(json.dumps({"pair": name, "error": str(error)}), flush=True)
            continue
        count, wrong = len(found.names), [found.names[index] for index in found.wrong]
        line = {"pair": name, "operators": count, "real_cpu": len(found.real)}
        line |= {"predicted_cpu": len(found.predicted), "right": count - len(wrong)}
        print(json.dumps(line | {"wrong": wrong[:_SHOWN]}), flush=True)
        operators, right = operators + count, right + count - len(wrong)
        pairs, exact = pairs + 1, exact + (not wrong)
    if not pairs:
        sys.exit(f"{folder}: no pairs X.tflite and X{_SUFFIX} that can be compared")
    share = round(right / operators, 4)
    total = {"pairs": pairs, "exact": exact, "operators": operators, "right": right}
    print(json.dumps(total | {"share": share}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
