"""PyTorch models: exported programs (.pt2), and FILE.py:factory. Nothing is ever unpickled."""

import hashlib
import importlib.util
import io
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from edgec_compiler.errors import CompilerError, ModelFileError, UsageError
from edgec_compiler.importers.shapes import Shapes, fixed_shape, refuse_unknown
from edgec_compiler.importers.sniff import ZIP_ERRORS, pickled_message
from edgec_compiler.source import Operator, SourceModel
from edgec_runtime.session import ModelTensor

_MAX_INDEX_BYTES = 256 << 20
_MAX_BYTES = 4 << 30


def import_program(path: Path, shapes: Shapes) -> SourceModel:
    """Return the exported program in a .pt2 file.

    Raises:
        ModelFileError: not such a file, damaged, or one with pickled parts.
        UsageError: a free axis needs --shape.
    """
    payload = path.read_bytes()
    _refuse_pickles(path, payload)
    # torch itself would fall back to unpickling the example inputs, which nobody needs.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        program = torch.export.load(io.BytesIO(payload))
    except Exception as error:  # torch's loader raises whatever its parts raise
        raise ModelFileError(f"{path}: torch cannot load it: {_brief(error)}") from error
    _refuse_training(path, program)
    names = [str(name) for name in program.graph_signature.user_inputs]
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    refuse_unknown(shapes, names)
    example = [_example(name, placeholders[name].meta["val"], shapes) for name in names]
    digest = hashlib.sha256(payload).hexdigest()
    module = Flat(program.module(check_guards=False), program.call_spec.in_spec)
    return describe(module, example, names, path.stem, digest, len(payload))


def import_factory(path: Path, factory: str, shapes: Shapes) -> SourceModel:
    """Return what the function `factory` in the Python file `path` makes: (module, inputs).

    Raises:
        ModelFileError: the file has no such function, or it returns something else.
    """
    refuse_unknown(shapes, [])
    made = _call_factory(path, factory)
    if isinstance(made, nn.Module) and isinstance(getattr(made, "example_inputs", None), tuple):
        made = (made, made.example_inputs)
    match made:
        case (nn.Module() as module, (*inputs,)) if all(
            isinstance(x, torch.Tensor) for x in inputs
        ):
            pass
        case _:
            raise ModelFileError(
                f"{path}:{factory} must return (module, (example input, ...)): "
                f"got {type(made).__name__}"
            )
    module = module.eval()
    names = [f"input_{i}" for i in range(len(inputs))] if len(inputs) > 1 else ["input"]
    digest, size = hashlib.sha256(path.read_bytes()), 0
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest.update(raw)
        size += len(raw)
    return describe(module, list(inputs), names, path.stem, digest.hexdigest(), size)


class Flat(nn.Module):
    """A module that takes and gives tensors in order, whatever tuples, lists and dicts it uses."""

    def __init__(self, module: nn.Module, in_spec: Any = None) -> None:
        super().__init__()
        self.module = module
        self._in_spec = in_spec  # torch's own description of (args, kwargs); None: plain arguments

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return the outputs: one tensor, or a tuple of several."""
        made = self.tree(*inputs)
        leaves = tuple(pytree.tree_leaves(made))
        return leaves[0] if len(leaves) == 1 else leaves

    def tree(self, *inputs: torch.Tensor) -> Any:
        """Return the outputs as the module itself gives them."""
        if self._in_spec is None:
            return self.module(*inputs)
        args, kwargs = pytree.tree_unflatten(list(inputs), self._in_spec)
        return self.module(*args, **kwargs)


def describe(
    module: nn.Module,
    example: list[torch.Tensor],
    names: list[str],
    name: str,
    sha256: str,
    size: int,
) -> SourceModel:
    """Return `module` as a source model; it is run once to learn its outputs.

    Raises:
        ModelFileError: it fails on the example, or returns something else than tensors.
    """
    flat = module if isinstance(module, Flat) else Flat(module)
    try:
        with torch.no_grad():
            made = flat.tree(*example)
            program = torch.export.export(flat, tuple(example))
    except Exception as error:  # the user's own code runs here
        raise ModelFileError(f"the module fails on its example input: {_brief(error)}") from error
    results = pytree.tree_leaves(made)
    if not results or not all(isinstance(one, torch.Tensor) for one in results):
        raise ModelFileError(
            "the module must return tensors: one, or a tuple, list or dict of them; got "
            f"{', '.join(sorted({type(one).__name__ for one in results})) or 'nothing'}"
        )
    outputs = _output_names(made, len(results))
    return SourceModel(
        format="torch",
        name=name,
        sha256=sha256,
        size_bytes=size,
        inputs=tuple(_tensor(n, x) for n, x in zip(names, example, strict=True)),
        outputs=tuple(_tensor(n, x) for n, x in zip(outputs, results, strict=True)),
        operators=_operators(program),
        module=program.module(check_guards=False),
        payload=None,
    )


def _output_names(made: Any, count: int) -> list[str]:
    """Return a dict's own keys, else output, or output_0, output_1, ..."""
    if isinstance(made, dict) and all(isinstance(one, torch.Tensor) for one in made.values()):
        return [str(key) for key in made]
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _refuse_training(path: Path, program: torch.export.ExportedProgram) -> None:
    """Refuse a program that drops at random, or that learns statistics while it runs."""
    dropping = any(
        node.op == "call_function"
        and "dropout" in str(node.target)
        and (node.args[2:3] == (True,) or node.kwargs.get("train") is True)
        for node in program.graph.nodes
    )
    if dropping or program.graph_signature.buffers_to_mutate:
        raise ModelFileError(
            f"{path}: exported in training mode: call model.eval() before torch.export.export"
        )


def _operators(program: torch.export.ExportedProgram) -> tuple[Operator, ...]:
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return tuple(
        Operator(index, str(node.target).removesuffix(".default"), node.name)
        for index, node in enumerate(calls)
    )


def _tensor(name: str, value: torch.Tensor) -> ModelTensor:
    return ModelTensor(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))


def _example(name: str, value: Any, shapes: Shapes) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise ModelFileError(f"input '{name}' is {type(value).__name__}, not a tensor")
    declared: Sequence[int | str] = [s if isinstance(s, int) else str(s) for s in value.shape]
    shape = fixed_shape(name, declared, shapes)
    if value.is_floating_point():
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(value.dtype)
    return torch.zeros(shape, dtype=value.dtype)


def _refuse_pickles(path: Path, payload: bytes) -> None:
    """Refuse archives that torch would unpickle: a pickle can run any code."""
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            members = {info.filename: info.file_size for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise ModelFileError(f"{path}: holds two files of one name, so it says two things")
            if sum(members.values()) > _MAX_BYTES:
                raise ModelFileError(f"{path}: unpacks to more than {_MAX_BYTES >> 30} GiB")
            indices = [
                n for n in members if n.endswith(("_weights_config.json", "_constants_config.json"))
            ]
            if any(n.endswith("data.pkl") for n in members) or not indices:
                raise ModelFileError(pickled_message(path))
            for name in indices:
                if members[name] > _MAX_INDEX_BYTES:
                    raise ModelFileError(f"{path}: {name} is too large")
                config = json.loads(archive.read(name))["config"]
                if any(entry.get("use_pickle") for entry in config.values()):
                    raise ModelFileError(pickled_message(path))
    except (*ZIP_ERRORS, KeyError, AttributeError, TypeError, IndexError) as error:
        raise ModelFileError(f"{path}: not an exported program, or a damaged one") from error


def _call_factory(path: Path, factory: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"_edgec_factory_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # the file's own neighbours
    try:
        spec.loader.exec_module(module)
        call = getattr(module, factory, None)
        if not callable(call):
            raise ModelFileError(f"{path}: has no function '{factory}'")
        return call()
    except CompilerError:
        raise
    except Exception as error:  # the user's own code runs here
        raise ModelFileError(f"{path}:{factory} fails: {_brief(error)}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
