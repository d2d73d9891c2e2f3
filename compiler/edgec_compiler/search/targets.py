"""Which targets of a run are searched for, for what, and which of them share candidates."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from edgec_compiler.options import DEFAULT_MAX_DROP, CompileOptions
from edgec_compiler.planning import Plan
from edgec_compiler.precisions import needs_calibration
from edgec_compiler.recipe import Recipe
from edgec_compiler.search.bench import Lab
from edgec_compiler.search.searching import Goal

_UNJUDGED = (
    "the target's default precision: nothing was searched, since {why}; "
    "--max-accuracy-drop limits disagreement with the source model"
)
_NO_LABELS = "the evaluation data has no labels to measure accuracy"
_NO_CLASSES = (
    "no output names a class that the labels could be compared with (a step such as argmax, or a "
    "meaning, says what it names: --preprocessing)"
)


def goal_of(options: CompileOptions, one: Plan, lab: Lab) -> Goal | None:
    """Return what to search for, None if nothing can tell good from bad.

    A plan that tries nothing is a search with one candidate.
    """
    source, drop = lab.forms.source, options.max_accuracy_drop
    accuracy = lab.expected.accuracy
    own = one.recipe
    if source.format == "tflite" and source.quantised:
        return None
    if lab.evaluation.origin == "noise" or (accuracy is None and drop is None):
        return None
    if not one.tries and options.delta_base is not None:
        return None
    tuned = own.method != "minmax" or own.equalise or own.bias_correction
    return Goal(
        recipes=tuple(_plain(own, precision, one.format) for precision in one.tries) or (own,),
        limit=DEFAULT_MAX_DROP if drop is None else drop,
        by_accuracy=accuracy is not None,
        source_accuracy=accuracy,
        optimize_for=options.optimize_for,
        mixable=bool(one.tries) and not one.profile.full_integer,
        tunable=bool(one.tries) and not tuned,
        most=options.max_candidates,
        most_bytes=one.profile.storage_bytes or one.profile.memory_bytes,
        seconds=options.search_budget,
    )


def note_of(one: Plan, goal: Goal | None, lab: Lab) -> str | None:
    """Return why nothing was searched, where the plan would have searched."""
    source = lab.forms.source
    quantised = source.format == "tflite" and source.quantised
    if not one.tries or goal is not None or quantised:
        return None
    return _UNJUDGED.format(why=_NO_LABELS if lab.evaluation.data.labels is None else _NO_CLASSES)


def grouped(goals: Mapping[str, Goal], plans: Iterable[Plan], lab: Lab) -> list[list[Plan]]:
    """Return the plans that are searched for, those together whose candidates are the same."""
    groups: dict[tuple[str, str], list[Plan]] = {}
    for one in plans:
        if one.profile.name in goals:
            style = lab.style_of(one.profile, one.format)
            groups.setdefault((one.format, style), []).append(one)
    return list(groups.values())


def _plain(own: Recipe, precision: str, fmt: str) -> Recipe:
    if needs_calibration(precision, fmt):
        return replace(own, precision=precision)
    return Recipe(precision, float_layers=own.float_layers if precision == "fp16" else ())
