"""What a compile run will make for each target, decided before any model is touched."""

import math
from dataclasses import dataclass
from pathlib import Path

from edgec_bundle.archive import check_replaceable
from edgec_bundle.errors import ArchiveError, BundleError
from edgec_bundle.manifest import NAME
from edgec_bundle.semver import SemVer
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.importing import is_quantised_model
from edgec_compiler.options import CompileOptions
from edgec_compiler.precisions import format_for, precision_for
from edgec_compiler.requantise.base import open_base
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
    if options.name is not None and not NAME.fullmatch(options.name):
        raise UsageError(f"--name: expected at most 63 of a-z, 0-9, - and _, got {options.name!r}")
    try:
        SemVer.parse(options.version)
    except BundleError as error:
        raise UsageError(f"--version: {error}") from error
    if options.release < 1:
        raise UsageError(f"--release: expected 1 or more, got {options.release}")
    if len(set(options.targets)) != len(options.targets) or not options.targets:
        raise UsageError("--target: give each target once, and at least one")
    for key in ("calibration", "evaluation", "preprocessing", "labels", "delta_base"):
        given = getattr(options, key)
        if given is not None and not Path(given).exists():
            raise UsageError(f"--{key.replace('_', '-')} {given}: no such file")
    if not 0 < options.delta_budget < math.inf:
        raise UsageError(f"--delta-budget: expected more than 0, got {options.delta_budget:g}")
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
    if options.delta_base is not None:
        open_base(Path(options.delta_base), profile.name, fmt, precision)
    single = len(options.targets) == 1
    out = Path(options.out) if single else Path(options.out) / profile.name
    try:
        check_replaceable(out)
    except ArchiveError as error:
        raise UsageError(f"--out: {error}") from error
    return Plan(profile, fmt, precision, out, note)
