"""One ONNX node test of each operator through the passes and the converter to TFLite, and run.

`python conversions.py --modules=conv,gemm CASE ...` prints a JSON line per case, so that a
converter that crashes shows as a line that is missing; `--update` chooses a case per operator and
writes the committed list.
"""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import node_cases
import numpy as np
import torch
from node_cases import RIGHT

from edgec_compiler.errors import CompilerError
from edgec_compiler.importers.onnx_ops import OPS

REFUSED = Path(__file__).with_name("conversions_refused.json")
CRASHED = "the converter crashes"
CONSTANT = "constant"  # nothing is left to convert: shapes are static


def convert(case: Any) -> str:
    """Return RIGHT, CONSTANT, "wrong ...", or why the case is not converted."""
    from edgec_compiler.convert.to_tflite import to_tflite
    from edgec_compiler.passes import PASSES, TFLITE_PASSES, capture, run_passes
    from edgec_compiler.source import SourceModel
    from edgec_runtime.errors import RunError
    from edgec_runtime.session import ModelTensor, load_session

    try:
        module, given = node_cases.built(case)
    except CompilerError as error:
        return _brief(str(error))
    if not module.steps:
        return CONSTANT
    with torch.no_grad():
        made = module(*given)
    made = made if isinstance(made, tuple) else (made,)

    def ends(kind: str, values: Any) -> tuple[ModelTensor, ...]:
        return tuple(
            ModelTensor(f"{kind}{i}", str(x.dtype).removeprefix("torch."), tuple(x.shape))
            for i, x in enumerate(values)
        )

    source = SourceModel("onnx", "case", "", 0, ends("i", given), ends("o", made), (), module, None)
    try:
        graph = capture(module, tuple(given))
        run_passes(graph, tuple(given), (*PASSES, *TFLITE_PASSES))
        form = to_tflite(graph, source)
        session = load_session(form.payload, "litert")
        feeds = [
            x.permute(0, 2, 3, 1) if i in form.moved_inputs else x for i, x in enumerate(given)
        ]
        names = [tensor.name for tensor in session.inputs]
        shaped = [  # as a bundle's steps would: LiteRT has fewer element types, and no scalars
            np.ascontiguousarray(x.numpy().astype(tensor.dtype)).reshape(tensor.shape)
            for x, tensor in zip(feeds, session.inputs, strict=True)
        ]
        answers = session.run(dict(zip(names, shaped, strict=True)))
    except (CompilerError, RunError) as error:
        return _brief(str(error))
    except Exception as error:  # torch.export's own
        return f"torch.export: {type(error).__name__}"
    for i, tensor in enumerate(session.outputs):
        answer = answers[tensor.name]
        moved = i in form.moved_outputs
        want = made[i].numpy()
        answer = answer.transpose(0, 3, 1, 2) if moved else answer.reshape(want.shape)
        problem = node_cases.difference(answer.astype(want.dtype), want, 1e-2)
        if problem:
            return problem
    return RIGHT


def chosen() -> dict[str, str]:
    """Return {operator: the case that stands for it}: float32 before others, short before long."""
    right = {name: case for name, case in node_cases.cases().items() if "_expanded" not in name}
    refused = node_cases.committed()
    best: dict[str, tuple[bool, int, str]] = {}
    for name, case in right.items():
        op = case.model.graph.node[0].op_type
        if name in refused or op not in OPS or "empty_set" in name:
            continue
        value = case.data_sets[0][0][0] if case.data_sets[0][0] else None
        key = (getattr(value, "dtype", None) != np.float32, len(name), name)
        best[op] = min(best.get(op, key), key)
    return {op: key[2] for op, key in sorted(best.items())}


def outcomes(names: list[str], modules: str = "") -> dict[str, str]:
    """Return how the conversion of each case ends, in children that may crash.

    `modules` of ONNX, separated by commas, are all that the children load; empty for all.
    """
    found: dict[str, str] = {}
    while todo := [name for name in names if name not in found]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, f"--modules={modules}", *todo],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for line in done.stdout.splitlines():
            if line.startswith('{"case":'):
                told = json.loads(line)
                found[told["case"]] = told["outcome"]
        missing = [name for name in todo if name not in found]
        if missing:
            if done.returncode == 0 or done.returncode == 1:
                raise RuntimeError(done.stderr[-2000:])
            found[missing[0]] = CRASHED
    return found


def _brief(reason: str) -> str:
    text = node_cases._general(reason.splitlines()[0])
    text = re.sub(r"<eval_with_key>.*?: error: ", "", text)  # places in generated code
    return re.split(r"\(%arg|: %", text)[0][:160].strip()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:] == ["--update"]:
        selected = chosen()
        results = outcomes(list(selected.values()))
        named = {f"{op} ({case})": results[case] for op, case in selected.items()}
        constant = [op for op, result in named.items() if result == CONSTANT]
        print(len(named), "operators,", len(constant), "always constant:", constant)
        left = {op: result for op, result in named.items() if result != CONSTANT}
        node_cases.write(REFUSED, left)
        print(json.dumps(node_cases.grouped(left), indent=1))
    else:
        wanted = sys.argv[1].removeprefix("--modules=")
        cases = node_cases.cases(*wanted.split(",") if wanted else ())
        for name in sys.argv[2:]:
            print(json.dumps({"case": name, "outcome": convert(cases[name])}), flush=True)
