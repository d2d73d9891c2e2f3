"""The model file of one target: which precision, and how it is made from the shared forms."""

from dataclasses import dataclass

from edgec_compiler.convert import fixups
from edgec_compiler.convert.to_onnx import serialise
from edgec_compiler.errors import ConversionError, UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.interface import Interface, fit
from edgec_compiler.quantise import onnx_precision, tflite_precision
from edgec_compiler.source import SourceModel
from edgec_hardware_profiles import Profile
from edgec_runtime.session import load_session

PRECISIONS = ("auto", "fp32", "fp16", "int8", "int16x8", "int4")
# How far a float output may lie from the recorded one on another machine, as a share of the
# outputs' range: rounding of sums in float, one or two steps of the last layers in int8.
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int16x8": 2e-2, "int8": 0.1, "int4": 0.1}
_NEEDS_CALIBRATION = tflite_precision.NEEDS_CALIBRATION | onnx_precision.NEEDS_CALIBRATION
_QUANTISED = frozenset({"int8", "uint8", "int16"})


@dataclass(frozen=True, slots=True)
class Variant:
    """A target's model file and the interface that leads to it."""

    payload: bytes
    precision: str
    interface: Interface
    notes: tuple[str, ...] = ()


def format_for(profile: Profile, wanted: str | None) -> str:
    """Return the file format for `profile`. Raises UsageError if `wanted` is not one of its own."""
    if wanted is not None and wanted not in profile.formats:
        raise UsageError(
            f"target {profile.name} takes {' or '.join(profile.formats)}, not {wanted}"
        )
    return wanted or profile.format


def precision_for(profile: Profile, wanted: str, *, calibrated: bool) -> tuple[str, str | None]:
    """Return the precision for `profile`, and a note if it is not the profile's default.

    Raises:
        UsageError: the target does not have it, or it needs calibration data that is missing.
    """
    if wanted != "auto":
        if wanted not in profile.precisions:
            raise UsageError(
                f"target {profile.name} takes {', '.join(profile.precisions)}, not {wanted}"
            )
        if wanted in _NEEDS_CALIBRATION and not calibrated:
            raise UsageError(_missing_calibration(profile, wanted))
        return wanted, None
    default = profile.default_precision
    if default not in _NEEDS_CALIBRATION or calibrated:
        return default, None
    free = [one for one in profile.precisions if one not in _NEEDS_CALIBRATION]
    if not free:
        raise UsageError(_missing_calibration(profile, default))
    return free[0], f"{free[0]} instead of {default}, which needs --calibration DATA"


def _missing_calibration(profile: Profile, precision: str) -> str:
    free = [one for one in profile.precisions if one not in _NEEDS_CALIBRATION]
    other = f", or choose --precision {free[0]}" if free else ""
    return (
        f"target {profile.name} at {precision} needs sample inputs to learn the ranges of "
        f"activations: add --calibration DATA (an .npz or a folder with about 100 typical inputs; "
        f"no labels needed){other}"
    )


def make_variant(forms: Forms, profile: Profile, fmt: str, precision: str) -> Variant:
    """Return the model for `profile` in format `fmt` at `precision`.

    Raises:
        ConversionError: a converter or quantiser refuses the model.
    """
    if fmt == "onnx":
        return _onnx(forms, profile, precision)
    if forms.source.format == "tflite" and _is_quantised(forms.source):
        return _passed_through(forms, profile)
    form = forms.tflite()
    ranges = forms.tflite_ranges() if precision in tflite_precision.NEEDS_CALIBRATION else None
    forms.progress(f"{profile.name}: {precision}")
    quantised = tflite_precision.quantise(
        form.payload, precision, ranges, full_integer=profile.full_integer
    )
    payload = fixups.finish(quantised, forms.source, full_integer=profile.full_integer)
    moved = (form.moved_inputs, form.moved_outputs)
    return Variant(payload, precision, _fitted(forms, payload, "litert", moved))


def _onnx(forms: Forms, profile: Profile, precision: str) -> Variant:
    model = forms.onnx(profile.max_opset)
    if precision == "int8":
        ranges = forms.onnx_ranges(profile.max_opset)
        forms.progress(f"{profile.name}: {precision}")
        model = onnx_precision.to_qdq(model, ranges, profile.quantization)
    elif precision == "fp16":
        forms.progress(f"{profile.name}: {precision}")
        model = onnx_precision.to_half(model)
    elif precision != "fp32":
        raise ConversionError(f"ONNX variants come as fp32, fp16 and int8, not {precision}")
    payload = serialise(model)
    return Variant(payload, precision, _fitted(forms, payload, "onnxruntime", ((), ())))


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
    note = "the source is quantised already: it is passed through as it is"
    return Variant(payload, "int8", forms.interface, (note,))


def _is_quantised(source: SourceModel) -> bool:
    ends = (*source.inputs, *source.outputs)
    return any(tensor.dtype in _QUANTISED and tensor.scale is not None for tensor in ends)


def _fitted(
    forms: Forms, payload: bytes, runtime: str, moved: tuple[tuple[int, ...], tuple[int, ...]]
) -> Interface:
    session = load_session(payload, runtime, optimise=False)
    inputs, outputs = session.inputs, session.outputs
    session.close()
    ends = (forms.source.inputs, forms.source.outputs)
    return fit(forms.interface, ends, (inputs, outputs), moved)
