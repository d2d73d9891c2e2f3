"""The model file of one target, made from the shared forms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgec_compiler.convert import fixups
from edgec_compiler.convert.to_onnx import serialise
from edgec_compiler.errors import ConversionError, NotAchievedError
from edgec_compiler.forms import Forms
from edgec_compiler.interface import Interface, fit
from edgec_compiler.precisions import NEEDS_CALIBRATION
from edgec_compiler.quantise import onnx_precision, tflite_precision
from edgec_compiler.requantise.base import Base
from edgec_compiler.requantise.forms import Request, rebase_onnx, rebase_tflite
from edgec_compiler.samples import Samples
from edgec_hardware_profiles import Profile
from edgec_runtime.session import load_session


@dataclass(frozen=True, slots=True)
class Variant:
    """A target's model file and the interface that leads to it."""

    payload: bytes
    precision: str
    interface: Interface
    notes: tuple[str, ...] = ()
    delta: Mapping[str, Any] | None = None  # how near it is to a deployed model, and at what cost


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


def make_variant(
    forms: Forms, profile: Profile, fmt: str, precision: str, near: Near | None = None
) -> Variant:
    """Return the model for `profile` in format `fmt` at `precision`, `near` a deployed one.

    Raises:
        ConversionError: a converter or quantiser refuses the model.
        NotAchievedError: the deployed model is of no use.
    """
    if fmt == "onnx":
        return _onnx(forms, profile, precision, near)
    if forms.source.format == "tflite" and forms.source.quantised:
        if near is not None:
            raise NotAchievedError("--delta-base needs the float model; this one is quantised")
        return _passed_through(forms, profile)
    if forms.source.narrow_weights and near is None and precision not in NEEDS_CALIBRATION:
        return _passed_through(forms, profile)
    form = forms.tflite()
    ranges = forms.tflite_ranges() if precision in NEEDS_CALIBRATION else None
    forms.progress(f"{profile.name}: {precision}")
    quantised = tflite_precision.quantise(
        form.payload, precision, ranges, full_integer=profile.full_integer
    )
    moved = (form.moved_inputs, form.moved_outputs)

    def variant(payload: bytes) -> Variant:
        return Variant(payload, precision, _fitted(forms, payload, "litert", moved))

    integers = profile.full_integer
    if near is None:
        return variant(fixups.finish(quantised, forms.source, full_integer=integers))
    forms.progress(f"{profile.name}: requantise near the deployed model")
    made = rebase_tflite(forms, quantised, near.request(variant), full_integer=integers)
    return replace(variant(made.payload), notes=(made.note,), delta=made.record)


def _onnx(forms: Forms, profile: Profile, precision: str, near: Near | None) -> Variant:
    exact = model = forms.onnx(profile.max_opset)
    if precision == "int8":
        ranges = forms.onnx_ranges(profile.max_opset)
        forms.progress(f"{profile.name}: {precision}")
        model = onnx_precision.to_qdq(model, ranges, profile.quantization)
    elif precision == "fp16":
        forms.progress(f"{profile.name}: {precision}")
        model = onnx_precision.to_half(model)
    elif precision != "fp32":
        raise ConversionError(f"ONNX variants come as fp32, fp16 and int8, not {precision}")

    def variant(payload: bytes) -> Variant:
        return Variant(payload, precision, _fitted(forms, payload, "onnxruntime", ((), ())))

    if near is None:
        return variant(serialise(model))
    forms.progress(f"{profile.name}: requantise near the deployed model")
    made = rebase_onnx(forms, exact, model, near.request(variant))
    return replace(variant(made.payload), notes=(made.note,), delta=made.record)


def _passed_through(forms: Forms, profile: Profile) -> Variant:
    payload = forms.source.payload
    if payload is None:
        raise ConversionError("the source model has no file")
    left = fixups.float_operators(payload) if profile.full_integer else ()
    if left:
        raise ConversionError(
            f"target {profile.name} executes integers only, but the quantised source computes "
            f"{', '.join(left[:5])} in float"
        )
    note = "the source is quantised already: it keeps its own quantisation"
    return Variant(payload, "int8", forms.interface, (note, *forms.source.notes))


def _fitted(
    forms: Forms, payload: bytes, runtime: str, moved: tuple[tuple[int, ...], tuple[int, ...]]
) -> Interface:
    session = load_session(payload, runtime, optimise=False)
    inputs, outputs = session.inputs, session.outputs
    session.close()
    ends = (forms.source.inputs, forms.source.outputs)
    return fit(forms.interface, ends, (inputs, outputs), moved)
