"""`edgec inspect`: what is in a model file or a bundle, without running it."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from edgec_bundle.archive import is_bundle, open_bundle
from edgec_compiler.cli.command import (
    add_json,
    describe,
    print_facts,
    print_json,
    print_table,
    visible,
)
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.inspecting import NATIVE_KINDS, inspect_model
from edgec_compiler.sizes import human_bytes


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec inspect model.onnx", run)
    parser.add_argument("model", metavar="MODEL|BUNDLE")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the model's ends and operators, or the bundle's manifest."""
    path = Path(arguments.model)
    if is_bundle(path):
        return _show_bundle(path, as_json=arguments.json)
    kind, file, factory = kind_of(arguments.model)
    native = kind in NATIVE_KINDS
    facts = _inspect_isolated(kind, file) if native else inspect_model(kind, file, factory)
    if arguments.json:
        print_json(facts)
    else:
        _show_model(arguments.model, facts)
    return 0


def _inspect_isolated(kind: str, file: Path) -> dict[str, Any]:
    """Return the facts of a file whose library may crash on it."""
    from edgec_compiler.isolated import run_isolated

    asked = {"model": str(file), "kind": kind}
    events = run_isolated("inspect", str(file), asked)
    (facts,) = (event["facts"] for event in events if event["event"] == "result")
    return dict(facts)


def _show_bundle(path: Path, *, as_json: bool) -> int:
    bundle = open_bundle(path)
    m = bundle.manifest
    facts: dict[str, Any] = {
        "kind": "bundle",
        "sha256": bundle.digest,
        "model": m.model,
        "version": m.version,
        "release": m.release,
        "profile": m.profile,
        "format": m.format,
        "runtime": {"name": m.runtime.name, "min_version": m.runtime.min_version},
        "inputs": [_tensor(t.name, t.dtype, t.shape) for t in m.inputs],
        "outputs": [_tensor(t.name, t.dtype, t.shape) for t in m.outputs],
        "preprocessing": [dict(step) for step in m.preprocessing],
        "postprocessing": [dict(step) for step in m.postprocessing],
        "files": {f.role: {"path": f.path, "bytes": f.bytes, "sha256": f.sha256} for f in m.files},
        "metrics": dict(m.metrics),
        "requires": list(m.requires.features),
    }
    if as_json:
        print_json(facts)
        return 0
    print_facts(
        {
            "bundle": f"{m.model} {m.version} (release {m.release})",
            "target": m.profile,
            "sha256": bundle.digest,
            "runs on": f"{m.runtime.name} {m.runtime.min_version or ''}".strip(),
            "steps": " -> ".join(
                [*(str(s["op"]) for s in m.preprocessing), "model"]
                + [str(s["op"]) for s in m.postprocessing]
            ),
        }
    )
    _show_ends(facts)
    print_table([("  " + f.role, human_bytes(f.bytes), f.path) for f in m.files])
    return 0


def _show_model(name: str, facts: dict[str, Any]) -> None:
    print_facts(
        {
            "model": name,
            "format": facts["format"],
            "sha256": facts["sha256"],
            "size": human_bytes(facts["bytes"]),
            "operators": str(len(facts["operators"])),
        }
    )
    _show_ends(facts)
    counted = Counter(operator["op"] for operator in facts["operators"])
    print_table([("  " + op, str(count)) for op, count in counted.most_common()])


def _show_ends(facts: dict[str, Any]) -> None:
    for kind in ("inputs", "outputs"):
        for tensor in facts[kind]:
            name = visible(tensor["name"])
            print(f"{kind[:-1]}: {name}  {tensor['dtype']} {tensor['shape']}")


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}
