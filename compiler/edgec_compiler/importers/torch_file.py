"""PyTorch models: exported programs (.pt2), and FILE.py:factory. Nothing is ever unpickled."""

import hashlib
import io
import json
import os
import traceback
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from edgec_compiler.errors import CompilerError, ModelFileError
from edgec_compiler.importers.batch_axes import lacking, notes_on, with_axis
from edgec_compiler.importers.python_file import load_function, where
from edgec_compiler.importers.rows import Rows
from edgec_compiler.importers.shapes import Shapes, fixed_shape, named_sizes, refuse_unknown
from edgec_compiler.importers.sniff import ZIP_ERRORS, pickled_message
from edgec_compiler.source import Operator, SourceModel
from edgec_runtime.session import ModelTensor

_MAX_INDEX_BYTES = 256 << 20
_MAX_BYTES = 4 << 30
_LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parents[1])


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
        if "weights_only" in str(error):  # torch would advise to unpickle it
            raise ModelFileError(pickled_message(path)) from error
        raise ModelFileError(f"{path}: torch cannot load it: {_brief(error)}") from error
    _refuse_training(path, program)
    _without_detaching(program)
    names = [str(name) for name in program.graph_signature.user_inputs]
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    refuse_unknown(shapes, names)
    values = {name: placeholders[name].meta["val"] for name in names}
    sizes = named_sizes({name: _declared(name, value) for name, value in values.items()}, shapes)
    example = [_example(name, value, shapes, sizes) for name, value in values.items()]
    digest = hashlib.sha256(payload).hexdigest()
    module = Flat(program.module(check_guards=False), program.call_spec.in_spec)
    return describe(module, example, names, path.stem, digest, len(payload))


def import_factory(path: Path, factory: str, shapes: Shapes) -> SourceModel:
    """Return what `factory` in the Python file `path` makes: (module, inputs) or (module, input).

    Raises:
        ModelFileError: the file has no such function, or it returns something else.
    """
    refuse_unknown(shapes, [])
    made = _call_factory(path, factory)
    if isinstance(made, nn.Module) and isinstance(getattr(made, "example_inputs", None), tuple):
        made = (made, made.example_inputs)
    match made:
        case (nn.Module() as module, torch.Tensor() as only):
            inputs = [only]
        case (nn.Module() as module, (*inputs,)) if all(
            isinstance(x, torch.Tensor) for x in inputs
        ):
            pass
        case _:
            raise ModelFileError(
                f"{path}:{factory} must return (module, (example input, ...)): got {_kind(made)}"
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


def _kind(made: object) -> str:
    """Return what `made` is, a tuple by its members."""
    if isinstance(made, tuple):
        return f"({', '.join(map(_kind, made))})"
    return type(made).__name__


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
    made, program = _traced(flat, example)
    results = pytree.tree_leaves(made)
    if not results or not all(isinstance(one, torch.Tensor) for one in results):
        raise ModelFileError(
            "the module must return tensors: one, or a tuple, list or dict of them; got "
            f"{', '.join(sorted({type(one).__name__ for one in results})) or 'nothing'}"
        )
    names_made = _output_names(made, len(results))
    inputs = tuple(_tensor(n, x) for n, x in zip(names, example, strict=True))
    outputs = tuple(_tensor(n, x) for n, x in zip(names_made, results, strict=True))
    places = lacking(inputs, outputs)
    rows = program.module(check_guards=False)
    return SourceModel(
        format="torch",
        name=name,
        sha256=sha256,
        size_bytes=size,
        inputs=with_axis(inputs, places.inputs),
        outputs=with_axis(outputs, places.outputs),
        operators=_operators(program),
        module=Rows(rows, places) if any(places) else rows,
        payload=None,
        notes=notes_on(inputs, outputs, places),
    )


def _traced(flat: Flat, example: list[torch.Tensor]) -> tuple[Any, torch.export.ExportedProgram]:
    """Return what the module makes of the example, and its graph. Raises ModelFileError."""
    try:
        with torch.no_grad():
            return flat.tree(*example), torch.export.export(flat, tuple(example))
    except GuardOnDataDependentSymNode as error:
        raise ModelFileError(
            f"the module's steps depend on the values of a tensor{_line(error)}, as "
            "`if x.sum() > 0`, `.item()` and `range(n)` make them: a device runs one graph for all "
            "inputs, so write it with torch.where, or leave it out of the model"
        ) from error
    except Exception as error:  # the user's own code runs here
        raise ModelFileError(
            f"the module fails on its example input{_line(error)}: {_brief(error)}"
        ) from error


def _output_names(made: Any, count: int) -> list[str]:
    """Return a dict's own keys, else output, or output_0, output_1, ..."""
    if isinstance(made, dict) and all(isinstance(one, torch.Tensor) for one in made.values()):
        return [str(key) for key in made]
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _refuse_training(path: Path, program: torch.export.ExportedProgram) -> None:
    """Refuse a program that drops at random, or that learns statistics while it runs."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    if any(map(_trains, calls)) or program.graph_signature.buffers_to_mutate:
        raise ModelFileError(
            f"{path}: exported in training mode: call model.eval() before torch.export.export"
        )


def _trains(node: fx.Node) -> bool:
    """Return whether an operator behaves as in training.

    A batch norm that has no statistics of its own takes those of its input in evaluation too.
    """
    schema = getattr(node.target, "_schema", None)
    names = [one.name for one in schema.arguments] if schema is not None else []
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    tracked = "running_mean" not in names or given.get("running_mean") is not None
    return tracked and (given.get("training") is True or given.get("train") is True)


def _without_detaching(program: torch.export.ExportedProgram) -> None:
    """Drop in-place detaches: a tensor written in `forward` leaves one, which cannot be exported.

    Without gradients they do nothing.
    """
    for node in list(program.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.detach_.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _operators(program: torch.export.ExportedProgram) -> tuple[Operator, ...]:
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return tuple(
        Operator(index, str(node.target).removesuffix(".default"), node.name)
        for index, node in enumerate(calls)
    )


def _tensor(name: str, value: torch.Tensor) -> ModelTensor:
    return ModelTensor(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))


def _declared(name: str, value: Any) -> list[int | str | None]:
    if not isinstance(value, torch.Tensor):
        raise ModelFileError(f"input '{name}' is {type(value).__name__}, not a tensor")
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def _example(name: str, value: Any, shapes: Shapes, sizes: Mapping[str, int]) -> torch.Tensor:
    shape = fixed_shape(name, _declared(name, value), shapes, sizes)
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
    try:
        with load_function(path, factory) as call:
            return call()
    except CompilerError:
        raise
    except Exception as error:  # the user's own code runs here
        raise ModelFileError(f"{path}:{factory} fails: {where(path, error)}") from error


def _line(error: Exception) -> str:
    """Return " (net.py:12)", the user's last line that led to an error, or nothing."""
    own = [
        f" ({Path(one.filename).name}:{one.lineno})"
        for one in traceback.extract_tb(error.__traceback__)
        if one.filename[0] != "<"  # what torch made up
        and not any(Path(one.filename).is_relative_to(library) for library in _LIBRARIES)
    ]
    return own[-1] if own else ""


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
