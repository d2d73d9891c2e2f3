"""Which format and precision a target gets, and what each precision costs and needs."""

from edgec_compiler.errors import UsageError
from edgec_compiler.recipe import Recipe
from edgec_hardware_profiles import Profile

PRECISIONS = ("auto", "fp32", "fp16", "int8", "int16x8", "int4", "dynamic", "int8-weights")
# Bytes of a weight; 16-bit activations need 64-bit biases, so they come after int8.
WEIGHT_BYTES = {
    "int4": 0.5,
    "int8": 1.0,
    "dynamic": 1.0,
    "int8-weights": 1.0,
    "int16x8": 1.01,
    "fp16": 2.0,
    "fp32": 4.0,
}
# How far a float output may lie from the recorded one on another machine, as a share of the
# outputs' range: rounding of sums in float, one or two steps of the last layers in int8.
TOLERANCES = {
    "fp32": 1e-3,
    "int8-weights": 1e-3,
    "fp16": 2e-2,
    "int16x8": 2e-2,
    "int8": 0.1,
    "int4": 0.1,
    "dynamic": 0.1,
}
_CALIBRATED = {"tflite": ("int8", "int16x8", "int4"), "onnx": ("int8", "int16x8")}


def needs_calibration(precision: str, fmt: str) -> bool:
    """Return whether `precision` quantises activations by ranges that must be learnt."""
    return precision in _CALIBRATED[fmt]


def dequantises_weights(profile: Profile) -> bool:
    """Return whether the target's runtime takes narrow weights for layers that compute in float."""
    return "int8-weights" in profile.precisions


def format_for(profile: Profile, wanted: str | None) -> str:
    """Return the file format for `profile`. Raises UsageError if `wanted` is not one of its own."""
    if wanted is not None and wanted not in profile.formats:
        raise UsageError(
            f"target {profile.name} takes {' or '.join(profile.formats)}, not {wanted}"
        )
    return wanted or profile.format


def precision_for(
    profile: Profile, fmt: str, wanted: str, *, calibrated: bool
) -> tuple[str, str | None]:
    """Return the precision for `profile` as `fmt`, and a note if it is not the default.

    Raises:
        UsageError: the target does not have it, or it needs calibration data that is missing.
    """
    if wanted != "auto":
        if wanted not in profile.precisions:
            raise UsageError(
                f"target {profile.name} takes {', '.join(profile.precisions)}, not {wanted}"
            )
        if needs_calibration(wanted, fmt) and not calibrated:
            raise UsageError(_missing_calibration(profile, fmt, wanted))
        return wanted, None
    default = profile.default_precision
    if calibrated or not needs_calibration(default, fmt):
        return default, None
    free = [one for one in profile.precisions if not needs_calibration(one, fmt)]
    if not free:
        raise UsageError(_missing_calibration(profile, fmt, default))
    return free[0], f"{free[0]} instead of {default}, which needs --calibration DATA"


def tries_for(
    profile: Profile, fmt: str, default: str, optimize_for: str, *, calibrated: bool
) -> tuple[str, ...]:
    """Return the precisions that a search tries, the most promising first.

    For speed that is `default`, then the profile's own order; for size that of the weights, until
    files tell more.
    """
    found = [one for one in profile.precisions if calibrated or not needs_calibration(one, fmt)]
    if optimize_for == "size":
        return tuple(sorted(found, key=lambda one: WEIGHT_BYTES[one]))
    return tuple(dict.fromkeys([default, *found]))


def check_recipe(profile: Profile, recipe: Recipe) -> None:
    """Return if `profile` can take `recipe`'s layers in float. Raises UsageError if not."""
    if recipe.float_layers and profile.full_integer:
        raise UsageError(
            f"--float-layer: target {profile.name} executes integers only; a layer that loses too "
            "much there can only be replaced in the model, or trained for it"
        )


def idle_options(recipe: Recipe, fmt: str) -> str | None:
    """Return a note on the options of `recipe` that its precision has no use for."""
    given = []
    if not needs_calibration(recipe.precision, fmt):
        given += ["--calibration-method"] * (recipe.method != "minmax")
        given += ["--equalize"] * recipe.equalise + ["--bias-correction"] * recipe.bias_correction
    if recipe.precision == "fp32":
        given += ["--float-layer"] * bool(recipe.float_layers)
    return f"{', '.join(given)}: without effect at {recipe.precision}" if given else None


def _missing_calibration(profile: Profile, fmt: str, precision: str) -> str:
    free = [one for one in profile.precisions if not needs_calibration(one, fmt)]
    other = f", or choose --precision {free[0]}" if free else ""
    return (
        f"target {profile.name} at {precision} needs sample inputs to learn the ranges of "
        f"activations: add --calibration DATA (an .npz or a folder with about 100 typical inputs; "
        f"no labels needed){other}"
    )
