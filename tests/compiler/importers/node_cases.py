"""ONNX's own backend node tests through the importer: each comes out right, or with a reason.

`python tests/compiler/importers/node_cases.py --update` writes the committed list of refusals anew.
"""

import argparse
import importlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgec_compiler.errors import CompilerError, UnsupportedOperatorError
from edgec_compiler.importers.onnx_file import array_of, inputs_of
from edgec_compiler.importers.onnx_module import OnnxModule, build_module
from edgec_compiler.importers.onnx_ops.dtypes import tensor_of, values_of

REFUSED = Path(__file__).with_name("node_cases_refused.json")
RIGHT = "right"
# Equal values may be listed in another order than ONNX's reference lists them.
TIES = {"test_top_k_same_values", "test_top_k_same_values_2d", "test_top_k_same_values_largest"}
_MODULES = "onnx.backend.test.case.node"


def cases(*modules: str) -> dict[str, Any]:
    """Return cases by name: all of them, or those of some of ONNX's modules, such as "conv"."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's about overflow in the cases' own references
        if not modules:
            return {case.name: case for case in node.collect_testcases(None)}
        for name in modules:
            importlib.import_module(f"{_MODULES}.{name}")
        made = [case for case in node._NodeTestCases if _module(case) in modules]
    return {case.name: case for case in made}


def _module(case: Any) -> str:
    return re.sub(r"_opset\d+$", "", case.model.graph.node[0].op_type.lower())


def build(case: Any, constant: set[str]) -> tuple[OnnxModule, list[torch.Tensor]]:
    """Return a case as a module and its inputs, those named `constant` known at compile time."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    given = dict(zip([v.name for v in model.graph.input], case.data_sets[0][0], strict=False))
    for name in sorted(constant & given.keys()):
        tensor = given[name]
        if not isinstance(tensor, onnx.TensorProto | np.ndarray | np.generic):
            continue  # a sequence: the importer refuses it as an input
        if not isinstance(tensor, onnx.TensorProto):
            tensor = onnx.numpy_helper.from_array(np.asarray(tensor))
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = name
    inputs = inputs_of(model, {})
    example = {tensor.name: tensor_of(_array(given[tensor.name])) for tensor in inputs}
    module, _ = build_module(model, example)
    return module, list(example.values())


def built(case: Any) -> tuple[OnnxModule, list[torch.Tensor]]:
    """Return a case as a module: every input free, else all but the first constant, else all."""
    names = [value.name for value in case.model.graph.input]
    try:
        return build(case, set())
    except CompilerError:
        pass
    try:
        return build(case, set(names[1:]))
    except CompilerError as error:
        problem = error
    try:
        return build(case, set(names))
    except CompilerError:
        raise problem from None


def outcome(case: Any) -> str:
    """Return RIGHT, "wrong ...", or why the case is refused."""
    try:
        module, given = built(case)
    except UnsupportedOperatorError as error:
        return f"{error.op}: {_general(error.reason)}"
    except CompilerError as error:
        return _general(str(error))
    with torch.no_grad():
        made = module(*given)
    made = made if isinstance(made, tuple) else (made,)
    for one, want in zip(made, case.data_sets[0][1], strict=True):
        found = values_of(one)
        if case.model.graph.node[0].op_type == "NonMaxSuppression":
            found = found[found[:, 0] >= 0]  # rows of -1 fill it up: shapes are static
        problem = difference(found, _array(want))
        if problem and case.name not in TIES:
            return problem
    return RIGHT


def difference(made: Any, want: Any, relative: float = 2e-3) -> str | None:
    """Return how an output differs from the expected one, or None."""
    if made.dtype != want.dtype or made.shape != want.shape:
        return f"wrong: {made.dtype}{list(made.shape)} for {want.dtype}{list(want.shape)}"
    left, right = made.astype(np.float64), want.astype(np.float64)
    if made.dtype.name == "bfloat16":
        relative = max(relative, 2e-2)
    return None if np.allclose(left, right, relative, 1e-5, True) else "wrong values"


def _array(value: Any) -> Any:
    return array_of(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _general(reason: str) -> str:
    """Return a reason without what is particular to one case."""
    reason = re.sub(r"shapes \[.*\]: ", "some shapes: ", reason)
    reason = re.sub(r"in shape \[.*", "in its shape", reason)
    return re.sub(r"'[^']*'", "'...'", reason)


def grouped(outcomes: dict[str, str]) -> dict[str, list[str]]:
    """Return {reason: [case, ...]} of what is not right, in order."""
    found: dict[str, list[str]] = {}
    for name, result in sorted(outcomes.items()):
        if result != RIGHT:
            found.setdefault(result, []).append(name)
    return dict(sorted(found.items()))


def committed(path: Path = REFUSED) -> dict[str, str]:
    """Return {case: reason} of a committed list."""
    listed = json.loads(path.read_text())
    return {name: reason for reason, names in listed.items() for name in names}


def write(path: Path, outcomes: dict[str, str]) -> None:
    """Write a list anew."""
    path.write_text(json.dumps(grouped(outcomes), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true")
    update = parser.parse_args().update
    warnings.simplefilter("ignore")
    results = {}
    for name, case in cases().items():
        try:
            results[name] = outcome(case)
        except Exception as error:
            results[name] = f"CRASH {error!r}"
    for why, names in grouped(results).items():
        print(len(names), why)
    print(list(results.values()).count(RIGHT), "of", len(results), "right")
    if update:
        write(REFUSED, results)
