"""The public interface of a bundle: what a STEPS.toml says, fitted to a model and to a target.

A STEPS.toml describes the way from raw input to the *source* model's input tensor, and from its
output tensor to the answer, in the words of a manifest. Each target adds what its own form of the
model needs (channel-last layout, quantised ends), so that applications see one interface whichever
variant runs. Without a STEPS.toml the interface is the source model's own tensors.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgec_bundle.errors import ManifestError
from edgec_bundle.manifest import Step, TensorSpec, is_tensor_name
from edgec_compiler.errors import ConversionError, UsageError
from edgec_runtime.errors import OutputError, RunError, UnsupportedError
from edgec_runtime.processing import Postprocessing, Preprocessing
from edgec_runtime.session import Array, ModelTensor
from edgec_runtime.steps import OPS, POSTPROCESSING, Misfit, parse_step
from edgec_runtime.steps.decision import TopK

MAX_BYTES = 1 << 20
_LISTS = ("inputs", "outputs", "preprocessing", "postprocessing")
_CHANNELS_LAST = ("NCHW", "NHWC")


@dataclass(frozen=True, slots=True)
class Steps:
    """A STEPS.toml as it was written; an output may leave dtype and shape to be found out."""

    inputs: tuple[Mapping[str, Any], ...] = ()
    outputs: tuple[Mapping[str, Any], ...] = ()
    preprocessing: tuple[Step, ...] = ()
    postprocessing: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Interface:
    """Public inputs and outputs, and the steps between them and a model's tensors."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: tuple[Step, ...]
    postprocessing: tuple[Step, ...]


def read_steps(path: Path) -> Steps:
    """Return what the TOML file `path` says.

    Raises:
        UsageError: unreadable, not TOML, or with members that nobody knows.
    """
    try:
        payload = path.read_bytes()
        raw = tomllib.loads(payload[:MAX_BYTES].decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}") from error
    if unknown := sorted(raw.keys() - set(_LISTS)):
        raise UsageError(f"{path}: unknown '{unknown[0]}'; known are {', '.join(_LISTS)}")
    for key, value in raw.items():
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise UsageError(f"{path}: '{key}' must be a list of tables: [[{key}]]")
    return Steps(**{key: tuple(value) for key, value in raw.items()})


def interface_of(
    steps: Steps, inputs: Sequence[ModelTensor], made: Mapping[str, Array]
) -> Interface:
    """Return the public interface of a source model.

    Args:
        steps: what the user says; empty for the model's own tensors.
        inputs: of the source model.
        made: the source model's outputs for some input, in its order: [1, ...] each.

    Raises:
        UsageError: the steps do not fit each other or the model.
    """
    try:
        public = tuple(TensorSpec(**_spec(raw)) for raw in steps.inputs) or tuple(
            TensorSpec(name, tensor.dtype, (-1, *tensor.shape[1:]))
            for name, tensor in zip(
                public_names([tensor.name for tensor in inputs], "input"), inputs, strict=True
            )
        )
        if len(public) != len(inputs):
            raise UsageError(
                f"--preprocessing: [[inputs]] names {len(public)} inputs, "
                f"the model has {len(inputs)}: {', '.join(t.name for t in inputs)}"
            )
        Preprocessing.parse(public, steps.preprocessing)
        outputs = _outputs(steps, made)
        Postprocessing.parse(outputs, steps.postprocessing)
    except UnsupportedError as error:
        raise UsageError(
            f"--preprocessing: {error}; the steps are {', '.join(sorted(OPS))}"
        ) from error
    except (ManifestError, RunError, TypeError) as error:
        raise UsageError(f"--preprocessing: {error}") from error
    return Interface(public, outputs, steps.preprocessing, steps.postprocessing)


def public_names(names: Sequence[str], kind: str) -> tuple[str, ...]:
    """Return the names of a model's tensors, or plain ones where some cannot be in a manifest.

    Converters from TensorFlow join the names of all layers that they have fused. A runtime binds
    names that are none of the model's own by their order, so all are replaced or none.
    """
    if all(is_tensor_name(name) for name in names):
        return tuple(names)
    plain = [kind] if len(names) == 1 else [f"{kind}_{number}" for number in range(len(names))]
    while set(plain) & set(names):
        plain = [f"{name}_" for name in plain]
    return tuple(plain)


def _spec(raw: Mapping[str, Any]) -> dict[str, Any]:
    if missing := [key for key in ("name", "dtype", "shape") if key not in raw]:
        raise UsageError(f"--preprocessing: an input without {' and '.join(missing)}")
    return {**raw, "shape": tuple(raw.get("shape", ()))}


def _outputs(steps: Steps, made: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Return the public outputs; what the user leaves out is found by running the steps."""
    named = [dict(raw) for raw in steps.outputs]
    named = named or [{"name": name} for name in public_names(list(made), "output")]
    taken = {str(step.get("indices")) for step in steps.postprocessing if step["op"] == "top_k"}
    heads = [str(raw.get("name")) for raw in named if raw.get("name") not in taken]
    if len(heads) != len(made):
        raise UsageError(
            f"--preprocessing: [[outputs]] names {len(heads)} outputs of the model, "
            f"which has {len(made)}: {', '.join(made)}"
        )
    values = dict(zip(heads, made.values(), strict=True))
    for number, raw in enumerate(steps.postprocessing, 1):
        step, owner = parse_step(raw, POSTPROCESSING, f"postprocessing step {number}", "output")
        name = owner or heads[0]
        if name not in values:
            raise UsageError(f"--preprocessing: step {number} acts on '{name}', which is no output")
        try:
            if isinstance(step, TopK):
                values[name], values[step.indices] = step.select(values[name])
            else:
                values[name] = step.apply(values[name])
        except Misfit as misfit:
            raise OutputError(f"{step.op}: {misfit.problem}", tensor=name) from misfit
    found = []
    for raw in named:
        value = values[str(raw["name"])]
        filled = {"dtype": value.dtype.name, "shape": (-1, *value.shape[1:]), **raw}
        found.append(TensorSpec(**_spec(filled)))
    return tuple(found)


def fit(
    interface: Interface,
    source: tuple[Sequence[ModelTensor], Sequence[ModelTensor]],
    model: tuple[Sequence[ModelTensor], Sequence[ModelTensor]],
    moved: tuple[Sequence[int], Sequence[int]],
) -> Interface:
    """Return `interface` for a target's form of the model.

    Args:
        interface: of the source model.
        source: its inputs and outputs.
        model: the inputs and outputs of the target's file, in the same order.
        moved: numbers of the inputs and outputs that the target has channel-last.

    Raises:
        ConversionError: an output has a type that no step makes.
    """
    inputs = [spec.name for spec in interface.inputs]
    before = list(interface.preprocessing)
    for i, (name, old, new) in enumerate(zip(inputs, source[0], model[0], strict=True)):
        extra = [_layout(*_CHANNELS_LAST)] if i in moved[0] else []
        extra += _into(old, new)
        before += [_owned(step, "input", name, len(inputs)) for step in extra]
    heads = Postprocessing.parse(interface.outputs, interface.postprocessing).heads
    after: list[Step] = []
    for i, (name, old, new) in enumerate(zip(heads, source[1], model[1], strict=True)):
        extra = _out_of(old, new)
        extra += [_layout(*_CHANNELS_LAST[::-1])] if i in moved[1] else []
        after += [_owned(step, "output", name, len(heads)) for step in extra]
    after += interface.postprocessing
    return replace(
        interface,
        preprocessing=tuple(_without_detours(before, "input")),
        postprocessing=tuple(_without_detours(after, "output")),
    )


def _layout(source: str, target: str) -> dict[str, Any]:
    return {"op": "layout", "from": source, "to": target}


def _owned(step: dict[str, Any], key: str, name: str, count: int) -> dict[str, Any]:
    return step if count == 1 else {**step, key: name}


def _into(old: ModelTensor, new: ModelTensor) -> list[dict[str, Any]]:
    """Return the steps that turn values for the source's tensor into ones for the target's."""
    if new.dtype == old.dtype:
        return []
    if new.scale is None or old.dtype != "float32":
        return [{"op": "cast", "dtype": new.dtype}]
    zero = new.zero_point or 0
    return [{"op": "quantize", "scale": new.scale, "zero_point": zero, "dtype": new.dtype}]


def _out_of(old: ModelTensor, new: ModelTensor) -> list[dict[str, Any]]:
    if new.dtype == old.dtype:
        return []
    if old.dtype == "float64":
        raise ConversionError(
            f"output '{old.name}' is float64, which TFLite lacks and no step makes: cast it to "
            "float32 in the model, or choose a target that takes ONNX"
        )
    if new.scale is None or old.dtype != "float32":
        return [{"op": "cast", "dtype": old.dtype}]
    return [{"op": "dequantize", "scale": new.scale, "zero_point": new.zero_point or 0}]


def _without_detours(steps: list[Step], key: str) -> list[Step]:
    """Drop pairs of neighbouring layout steps of one tensor that undo each other."""
    kept: list[Step] = []
    for step in steps:
        before = kept[-1] if kept else None
        if (
            before is not None
            and before["op"] == step["op"] == "layout"
            and before.get(key) == step.get(key)
            and _axes(before) is not None
            and _undoes(before, step)
        ):
            kept.pop()
        else:
            kept.append(step)
    return kept


def _axes(step: Step) -> list[int] | None:
    source, target = step.get("from"), step.get("to")
    if not isinstance(source, str) or not isinstance(target, str):
        return None
    return [source.index(letter) for letter in target]


def _undoes(first: Step, second: Step) -> bool:
    one, two = _axes(first), _axes(second)
    if one is None or two is None or len(one) != len(two):
        return False
    return bool(np.array_equal(np.array(one)[two], np.arange(len(one))))
