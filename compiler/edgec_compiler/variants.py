"""The model file of one target, made from the shared forms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import onnx

from edgec_compiler.convert import fixups
from edgec_compiler.convert.to_onnx import serialise
from edgec_compiler.convert.write_out import lacking
from edgec_compiler.errors import ConversionError, NotAchievedError, UsageError
from edgec_compiler.forms import EQUALISE, Forms
from edgec_compiler.interface import Interface, fit
from edgec_compiler.precisions import check_recipe, dequantises_weights, needs_calibration
from edgec_compiler.quantise import advice, onnx_precision, tflite_precision
from edgec_compiler.quantise.bias import correct_biases
from edgec_compiler.quantise.clipping import Range, Scheme
from edgec_compiler.quantise.kernels import int8_kernels
from edgec_compiler.quantise.layers import Layer, chosen, onnx_layers, tflite_layers
from edgec_compiler.recipe import Recipe
from edgec_compiler.requantise.base import Base
from edgec_compiler.requantise.forms import Request, rebase_onnx, rebase_tflite
from edgec_compiler.requantise.onnx_layers import OnnxModel
from edgec_compiler.requantise.tflite_layers import TfliteModel
from edgec_compiler.samples import Samples
from edgec_hardware_profiles import Profile
from edgec_runtime.session import load_session


@dataclass(frozen=True, slots=True)
class Variant:
    """A target's model file and the interface that leads to it."""

    payload: bytes
    recipe: Recipe
    interface: Interface
    notes: tuple[str, ...] = ()
    delta: Mapping[str, Any] | None = None  # how near it is to a deployed model, and at what cost

    @property
    def precision(self) -> str:
        """Return its precision."""
        return self.recipe.precision


@dataclass(frozen=True, slots=True)
class Near:
    """A deployed model that an int8 variant shall be near to."""

    base: Base
    budget: float
    evaluation: Samples
    accept: Callable[[Variant], bool]  # the accuracy gate

    def request(self, variant: Callable[[bytes], Variant]) -> Request:
        """Return the request, with `variant` making a variant of a shipped file."""
        return Request(
            self.base, self.budget, self.evaluation, lambda made: self.accept(variant(made))
        )


def layers_of(forms: Forms, profile: Profile, fmt: str) -> tuple[Layer, ...]:
    """Return the layers that a recipe can keep in float, in execution order.

    A model that keeps its own quantisation has none.

    Raises:
        ConversionError: the model has no form in this format.
    """
    if fmt == "onnx":
        return onnx_layers(forms.onnx(profile.max_opset))
    if forms.source.format == "tflite" and forms.source.quantised:
        return ()
    return tflite_layers(written_out(forms, profile, fmt).tflite().payload)


def written_out(forms: Forms, profile: Profile, fmt: str) -> Forms:
    """Return the forms in the operators of `profile`, where others can be written out in them.

    Raises:
        ConversionError: the model has no form in this format.
    """
    if fmt == "onnx" or (forms.source.format == "tflite" and forms.source.quantised):
        return forms
    return forms.written_out(lacking(profile))


def own_forms(
    forms: Forms, profile: Profile, fmt: str, recipe: Recipe
) -> tuple[Forms, tuple[str, ...]]:
    """Return the forms that a variant starts from, and what people shall hear about them.

    Raises:
        ConversionError: the model has no form in this format.
        UsageError: `recipe` cannot be followed.
    """
    forms, notes = evened(forms, fmt, recipe)
    own = written_out(forms, profile, fmt)
    if own is forms:
        return forms, notes
    ops = [name.removeprefix("write out ") for name in own.passes if name not in forms.passes]
    return own, (*notes, f"{' and '.join(ops)} written out in operators that the target has")


def prepare(forms: Forms, profile: Profile, fmt: str, recipe: Recipe) -> None:
    """Let `forms` make what `make_variant` will ask of it and other targets may share.

    Raises:
        CompilerError: as `make_variant`, which will meet the same problem.
    """
    if fmt == "tflite" and _keeps_source(forms, recipe, near=False):
        return
    forms, _ = own_forms(forms, profile, fmt, recipe)
    if fmt == "onnx":
        forms.onnx(profile.max_opset)
    else:
        forms.tflite()
    _ranges(forms, profile, fmt, recipe)
    _advice(forms, profile, fmt, recipe)


def _ranges(forms: Forms, profile: Profile, fmt: str, recipe: Recipe) -> Mapping[str, Range] | None:
    """Return the ranges of a form's activations by `recipe`; None if it needs none."""
    if not needs_calibration(recipe.precision, fmt):
        return None
    wide = recipe.precision == "int16x8"
    if fmt == "tflite":
        return forms.tflite_ranges(recipe.method, Scheme(16 if wide else 8, symmetric=wide))
    symmetric = profile.quantization.qdq_style == "tensorrt"
    scheme = Scheme(16 if wide else 8, symmetric=symmetric)
    return forms.onnx_ranges(recipe.method, scheme)


def evened(forms: Forms, fmt: str, recipe: Recipe) -> tuple[Forms, tuple[str, ...]]:
    """Return the forms that `recipe` starts from, and what people shall hear about them."""
    if not recipe.equalise or not needs_calibration(recipe.precision, fmt):
        return forms, ()
    even = forms.equalised()
    pairs = even.passes[EQUALISE.name]
    if not pairs:
        return even, ("--equalize: no two layers with only ReLU, pools or padding between them",)
    return even, (f"equalised {pairs} pairs of layers",)


def _corrected(
    model: TfliteModel | OnnxModel, forms: Forms, fmt: str
) -> tuple[bytes, tuple[str, ...]]:
    """Return the quantised file with corrected biases, and what people shall hear about it."""
    feeder = forms.tflite_feeds if fmt == "tflite" else forms.onnx_feeds
    payload, count = correct_biases(model, partial(feeder, forms.calibration_samples()))
    if not count:
        return payload, ("--bias-correction: no layer with a bias in integers",)
    return payload, (f"corrected the biases of {count} layers",)


def _advice(forms: Forms, profile: Profile, fmt: str, recipe: Recipe) -> tuple[str, ...]:
    """Return what people shall hear about how activations are quantised."""
    layers = layers_of(forms, profile, fmt)
    ranges = _ranges(forms, profile, fmt, recipe)
    recurrent = advice.on_recurrent(recipe, layers, narrow=dequantises_weights(profile))
    if ranges is None:
        return (*recurrent, *advice.on_dynamic(recipe, fmt, layers))
    whole = _ranges(forms, profile, fmt, replace(recipe, method="minmax")) or {}
    few = advice.on_samples(forms.calibration_samples().data)
    return (*few, *recurrent, *advice.on_clipping(recipe, ranges, whole, layers))


def _keeps_source(forms: Forms, recipe: Recipe, *, near: bool) -> bool:
    """Return whether the source file itself is the TFLite variant."""
    source = forms.source
    if source.format == "tflite" and source.quantised:
        return True
    asked = near or bool(recipe.float_layers)
    return source.narrow_weights and not asked and not needs_calibration(recipe.precision, "tflite")


def make_variant(
    forms: Forms, profile: Profile, fmt: str, recipe: Recipe, near: Near | None = None
) -> Variant:
    """Return the model for `profile` in format `fmt` by `recipe`, `near` a deployed one.

    Raises:
        ConversionError: a converter or quantiser refuses the model.
        NotAchievedError: the deployed model is of no use.
        UsageError: a layer that shall stay in float is not there, or the target has no floats.
    """
    check_recipe(profile, recipe)
    if fmt == "onnx":
        return _onnx(forms, profile, recipe, near)
    if _keeps_source(forms, recipe, near=near is not None):
        if near is not None:
            raise NotAchievedError("--delta-base needs the float model; this one is quantised")
        if recipe.float_layers:
            raise UsageError("--float-layer needs the float model; this one is quantised")
        return _passed_through(forms, profile)
    forms, notes = own_forms(forms, profile, fmt, recipe)
    form = forms.tflite()
    ranges = _ranges(forms, profile, fmt, recipe)
    notes += (*forms.source.notes, *_advice(forms, profile, fmt, recipe))
    forms.progress(f"{profile.name}: {recipe.precision}")
    quantised = tflite_precision.quantise(
        form.payload,
        recipe.precision,
        ranges,
        full_integer=profile.full_integer,
        float_outputs=_outputs(forms, profile, fmt, recipe.float_layers),
        int8_outputs=_outputs(forms, profile, fmt, recipe.int8_layers),
        kernels=int8_kernels(profile) if profile.full_integer else (),
    )
    if recipe.bias_correction and ranges is not None:
        quantised, said = _corrected(TfliteModel(form.payload, quantised), forms, fmt)
        notes += said
    moved = (form.moved_inputs, form.moved_outputs)

    def variant(payload: bytes) -> Variant:
        return Variant(payload, recipe, _fitted(forms, payload, "litert", moved), notes)

    integers = profile.full_integer
    if near is None:
        return variant(fixups.finish(quantised, forms.source, full_integer=integers))
    forms.progress(f"{profile.name}: requantise near the deployed model")
    made = rebase_tflite(forms, quantised, near.request(variant), full_integer=integers)
    return replace(variant(made.payload), notes=(*notes, made.note), delta=made.record)


def _onnx(forms: Forms, profile: Profile, recipe: Recipe, near: Near | None) -> Variant:
    if recipe.precision == "int16x8":
        _require_wide(profile)
    forms, notes = evened(forms, "onnx", recipe)
    exact = forms.onnx(profile.max_opset)
    kept = _outputs(forms, profile, "onnx", recipe.float_layers)
    ranges = _ranges(forms, profile, "onnx", recipe)
    notes += (*forms.source.notes, *_advice(forms, profile, "onnx", recipe))
    forms.progress(f"{profile.name}: {recipe.precision}")
    model = onnx_precision.quantise(
        exact,
        recipe.precision,
        ranges,
        profile.quantization,
        kept,
        narrow_recurrent=dequantises_weights(profile),
    )
    if recipe.bias_correction and ranges is not None:
        payload, said = _corrected(OnnxModel(exact, model), forms, "onnx")
        model = onnx.load_model_from_string(payload)
        notes += said

    def variant(payload: bytes) -> Variant:
        fitted = _fitted(forms, payload, "onnxruntime", ((), ()))
        return Variant(payload, recipe, fitted, notes)

    if near is None:
        return variant(serialise(model))
    forms.progress(f"{profile.name}: requantise near the deployed model")
    made = rebase_onnx(forms, exact, model, near.request(variant))
    return replace(variant(made.payload), notes=(*notes, made.note), delta=made.record)


def _require_wide(profile: Profile) -> None:
    wanted = onnx_precision.WIDE_OPSET
    if profile.max_opset is not None and profile.max_opset < wanted:
        raise ConversionError(
            f"int16x8 as ONNX needs opset {wanted}; target {profile.name} has {profile.max_opset}"
        )


def _outputs(forms: Forms, profile: Profile, fmt: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    return tuple(layer.output for layer in chosen(layers_of(forms, profile, fmt), names))


def _passed_through(forms: Forms, profile: Profile) -> Variant:
    payload = forms.source.payload
    if payload is None:
        raise ConversionError("the source model has no file")
    left = fixups.float_operators(payload) if profile.full_integer else ()
    if left and not forms.source.quantised:
        raise ConversionError(
            f"target {profile.name} executes integers only, but the source computes "
            f"{fixups.counted(left)} in float"
        )
    if forms.source.quantised:
        precision, note = "int8", "the source is quantised already: it keeps its own quantisation"
    else:
        precision = "dynamic"
        note = "the source's weights are quantised already and stay so"
        if forms.calibration is None:
            note += "; an integer precision needs --calibration DATA"
    floats = (f"computed in float, on the CPU: {fixups.counted(left)}",) if left else ()
    notes = (note, *floats, *forms.source.notes)
    return Variant(payload, Recipe(precision), forms.interface, notes)


def _fitted(
    forms: Forms, payload: bytes, runtime: str, moved: tuple[tuple[int, ...], tuple[int, ...]]
) -> Interface:
    session = load_session(payload, runtime, optimise=False)
    inputs, outputs = session.inputs, session.outputs
    session.close()
    ends = (forms.source.inputs, forms.source.outputs)
    return fit(forms.interface, ends, (inputs, outputs), moved)
