"""What a compile run will make for each target, decided before any model is touched."""

from dataclasses import dataclass
from pathlib import Path

from edgec_bundle.errors import BundleError
from edgec_bundle.semver import SemVer
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.importing import is_quantised_model
from edgec_compiler.options import CompileOptions
from edgec_compiler.precisions import format_for, precision_for
from edgec_hardware_profiles import Profile, ProfileError, load


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be made for one target, before any model is touched."""

    profile: Profile
    format: str
    precision: str
    out: Path
    note: str | None


def plan(options: CompileOptions) -> tuple[Plan, ...]:
    """Return what `options` ask for, having checked all that can be checked without the model.

    Raises:
        UsageError: an option is wrong, or a target cannot take what is asked for.
    """
    try:
        SemVer.parse(options.version)
    except BundleError as error:
        raise UsageError(f"--version: {error}") from error
    if options.release < 1:
        raise UsageError(f"--release: expected 1 or more, got {options.release}")
    if len(set(options.targets)) != len(options.targets) or not options.targets:
        raise UsageError("--target: give each target once, and at least one")
    for key in ("calibration", "evaluation", "preprocessing", "labels"):
        given = getattr(options, key)
        if given is not None and not Path(given).exists():
            raise UsageError(f"--{key} {given}: no such file")
    quantised = is_quantised_model(options.model)
    return tuple(_plan_one(options, target, quantised=quantised) for target in options.targets)


def _plan_one(options: CompileOptions, target: str, *, quantised: bool) -> Plan:
    try:
        profile = load(target)
    except ProfileError as error:
        raise UsageError(f"--target: {error}") from error
    fmt = format_for(profile, options.format)
    calibrated = options.calibration is not None or quantised
    precision, note = precision_for(profile, options.precision, calibrated=calibrated)
    single = len(options.targets) == 1
    out = Path(options.out) if single else Path(options.out) / profile.name
    return Plan(profile, fmt, precision, out, note)
