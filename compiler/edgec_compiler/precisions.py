"""Which format and precision a target gets, and what each precision costs and needs."""

from edgec_compiler.errors import UsageError
from edgec_hardware_profiles import Profile

PRECISIONS = ("auto", "fp32", "fp16", "int8", "int16x8", "int4")
NEEDS_CALIBRATION = frozenset({"int8", "int16x8", "int4"})
# How far a float output may lie from the recorded one on another machine, as a share of the
# outputs' range: rounding of sums in float, one or two steps of the last layers in int8.
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int16x8": 2e-2, "int8": 0.1, "int4": 0.1}


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
        if wanted in NEEDS_CALIBRATION and not calibrated:
            raise UsageError(_missing_calibration(profile, wanted))
        return wanted, None
    default = profile.default_precision
    if default not in NEEDS_CALIBRATION or calibrated:
        return default, None
    free = [one for one in profile.precisions if one not in NEEDS_CALIBRATION]
    if not free:
        raise UsageError(_missing_calibration(profile, default))
    return free[0], f"{free[0]} instead of {default}, which needs --calibration DATA"


def _missing_calibration(profile: Profile, precision: str) -> str:
    free = [one for one in profile.precisions if one not in NEEDS_CALIBRATION]
    other = f", or choose --precision {free[0]}" if free else ""
    return (
        f"target {profile.name} at {precision} needs sample inputs to learn the ranges of "
        f"activations: add --calibration DATA (an .npz or a folder with about 100 typical inputs; "
        f"no labels needed){other}"
    )
