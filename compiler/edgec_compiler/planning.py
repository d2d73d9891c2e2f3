"""What a compile run will make for each target, decided before any model is touched."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

from edgec_bundle.archive import check_replaceable
from edgec_bundle.errors import ArchiveError, BundleError
from edgec_bundle.manifest import NAME
from edgec_bundle.semver import SemVer
from edgec_compiler.compress.wanted import check
from edgec_compiler.errors import NotAchievedError, UsageError
from edgec_compiler.importers.importing import own_quantisation_of
from edgec_compiler.mapping.programs import makes_own_binary
from edgec_compiler.options import CompileOptions
from edgec_compiler.precisions import (
    check_recipe,
    format_for,
    idle_options,
    needs_calibration,
    precision_for,
    tries_for,
)
from edgec_compiler.recipe import Recipe
from edgec_compiler.requantise.base import open_base
from edgec_compiler.source import Quantisation
from edgec_hardware_profiles import Profile, ProfileError, load

_SEARCH = ("optimize_for", "search_budget", "max_candidates")  # options of --precision auto


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be made for one target, before any model is touched."""

    profile: Profile
    format: str
    recipe: Recipe
    out: Path
    note: str | None
    tries: tuple[str, ...] = ()  # precisions that a search tries, in order; empty: no search


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
    if options.max_candidates < 1:
        raise UsageError(f"--max-candidates: expected 1 or more, got {options.max_candidates}")
    if options.search_budget is not None and not 0 < options.search_budget < math.inf:
        raise UsageError(f"--search-budget: expected seconds, got {options.search_budget:g}")
    if options.delta_budget != 1 and options.delta_base is None:
        raise UsageError("--delta-budget belongs to --delta-base BUNDLE, which is not given")
    if not 0 < options.delta_budget < math.inf:
        raise UsageError(f"--delta-budget: expected more than 0, got {options.delta_budget:g}")
    kept = own_quantisation_of(options.model)
    plans = tuple(_plan_one(options, target, kept) for target in options.targets)
    if any(not one.profile.full_integer for one in plans):
        plans = tuple(map(_without_floats, plans))
    for one in plans:
        check_recipe(one.profile, one.recipe)
    check(
        options.compress,
        model=options.model,
        calibrated=options.calibrated,
        precisions={one.profile.name: one.recipe.precision for one in plans},
    )
    return plans


def _plan_one(options: CompileOptions, target: str, kept: Quantisation | None) -> Plan:
    try:
        profile = load(target)
    except ProfileError as error:
        raise UsageError(f"--target: {error}") from error
    fmt = format_for(profile, options.format)
    precision, note = _precision(options, profile, fmt, kept)
    if options.delta_base is not None:
        if makes_own_binary(profile, fmt):
            raise NotAchievedError(
                f"{target}: --delta-base: its vendor's compiler packs the weights anew, so none "
                "that is kept makes the patch smaller. Compile this target without --delta-base"
            )
        open_base(Path(options.delta_base), profile.name, fmt, precision)
    single = len(options.targets) == 1
    out = Path(options.out) if single else Path(options.out) / profile.name
    try:
        if options.out:  # an analysis writes nothing
            check_replaceable(out)
    except ArchiveError as error:
        raise UsageError(f"--out: {error}") from error
    recipe = Recipe(
        precision,
        options.calibration_method,
        tuple(dict.fromkeys(options.float_layers)),
        options.equalise,
        options.bias_correction,
    )
    tries = _tries(options, profile, fmt, precision, kept)
    unsearched = _unsearched(options, profile, note) if not tries and kept is None else None
    notes = [one for one in (note, idle_options(recipe, fmt), unsearched) if one]
    return Plan(profile, fmt, recipe, out, "; ".join(notes) or None, tries)


def _precision(
    options: CompileOptions, profile: Profile, fmt: str, kept: Quantisation | None
) -> tuple[str, str | None]:
    """Return the precision, and a note if it is not what the target gets by default."""
    calibrated = options.calibrated or kept == "whole"
    precision, note = precision_for(profile, fmt, options.precision, calibrated=calibrated)
    if kept == "weights" and note is not None and "dynamic" in profile.precisions:
        return "dynamic", None  # what the file is
    return precision, note


def _without_floats(one: Plan) -> Plan:
    """Return a plan that keeps no layer in float where the target has none, with a note."""
    if not (one.recipe.float_layers and one.profile.full_integer):
        return one
    said = "--float-layer: not applied, since the target executes integers only"
    recipe = replace(one.recipe, float_layers=())
    return replace(one, recipe=recipe, note=f"{one.note}; {said}" if one.note else said)


def _tries(
    options: CompileOptions, profile: Profile, fmt: str, default: str, kept: Quantisation | None
) -> tuple[str, ...]:
    """Return what --precision auto tries: nothing where no data tells good from bad."""
    if options.precision != "auto" or options.evaluation is None:
        return ()
    calibrated = options.calibrated
    if options.delta_base is not None:
        return (default,)  # near an int8 model there are int8 models only
    tries = tries_for(profile, fmt, default, options.optimize_for, calibrated=calibrated)
    if kept == "weights":  # whatever needs no calibration is the file as it is
        same = [one for one in tries if not needs_calibration(one, fmt)]
        own = "dynamic" if "dynamic" in same else same[0] if same else None
        return tuple(one for one in tries if one not in same or one == own)
    return tries


def _is_given(options: CompileOptions, name: str) -> bool:
    default = next(one.default for one in fields(CompileOptions) if one.name == name)
    return bool(getattr(options, name) != default)


def _unsearched(options: CompileOptions, profile: Profile, note: str | None) -> str | None:
    if options.precision != "auto":
        given = [f"--{name.replace('_', '-')}" for name in _SEARCH if _is_given(options, name)]
        return f"{', '.join(given)}: for --precision auto only" if given else None
    if len(profile.precisions) == 1:
        return None
    default = "the target's default precision: " if note is None else ""
    return f"{default}without --evaluation DATA nothing is searched"
