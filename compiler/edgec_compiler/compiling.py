"""One compile run: a model and its samples in, one bundle per target out.

import -> passes -> convert -> (per target: quantise, judge, fit, write, measure). Everything that
targets share is made once; then each target has a process of its own, and one that fails or crashes
does not stop the others. Order and number of the processes have no say in any bundle's bytes.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from edgec_compiler.float_layers import settled
from edgec_compiler.given import read_given
from edgec_compiler.importers import import_model
from edgec_compiler.importers.shapes import parse_shapes
from edgec_compiler.making import target_piece
from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import Plan, plan
from edgec_compiler.results import TargetResult, attempted, failure
from edgec_compiler.run import Run
from edgec_compiler.search.pieces import outcomes_of, search_pieces
from edgec_compiler.search.searching import Found
from edgec_compiler.search.sensitivity import sweep
from edgec_compiler.side_by_side import Piece, Step, jobs_for, run_side_by_side
from edgec_compiler.variants import layers_of

Progress = Callable[[str, str | None], None]  # a step, and the target that takes it


def compile_model(options: CompileOptions, tell: Progress) -> Iterator[TargetResult]:
    """Compile for all targets side by side; yield each result when its bundle is in place.

    Raises:
        CompilerError: nothing can be compiled at all. A single target's failure is in its result.
    """
    started = time.monotonic()
    plans = plan(options)
    tell("import", None)
    source = import_model(options.model, parse_shapes(options.shapes))
    run = Run.start(options, source, lambda step: tell(step, None))
    jobs = jobs_for(options.jobs)
    for event in run_side_by_side(run.shared_pieces(plans), jobs):
        if isinstance(event, Step):
            tell(event.step, None)
        elif event.death is None:
            run.forms.adopt(event.value)
            if run.floats is not None:
                run.floats.keep(run.forms, event.name)
    plans = settled(plans, run.forms)
    found: dict[str, Found] = {}
    for event in run_side_by_side(search_pieces(run.lab, options, plans), jobs):
        if isinstance(event, Step):
            target, _, step = event.step.partition(": ")
            tell(step, target)
            continue
        for name, outcome in outcomes_of(event).items():
            if isinstance(outcome, Found):
                found[name] = outcome
            else:
                plans = tuple(one for one in plans if one.profile.name != name)
                yield outcome
    pieces = [
        Piece(
            one.profile.name, partial(target_piece, run, one, found.get(one.profile.name), started)
        )
        for one in plans
    ]
    for event in run_side_by_side(pieces, jobs):
        if isinstance(event, Step):
            tell(event.step.removeprefix(f"{event.name}: "), event.name)
        elif event.death is not None:
            yield failure(event.name, f"its compilation {event.death}")
        else:
            yield event.value


def analyse(options: CompileOptions, tell: Progress) -> dict[str, Any]:
    """Return how sensitive each layer is, for the one target; see `search.sensitivity`.

    Raises:
        CompilerError: it cannot be told.
    """
    (one,) = plan(options)
    name = one.profile.name
    tell("import", None)
    source = import_model(options.model, parse_shapes(options.shapes))
    run = Run.start(options, source, lambda step: tell(step, None))
    run.forms.progress = lambda step: None
    if run.floats is not None:
        run.floats.recall(run.forms, one.format)
    facts = sweep(run.lab, options, one, lambda step: tell(step, name))
    if run.floats is not None:
        run.floats.keep(run.forms, one.format)
    return facts


def rehearse(options: CompileOptions, tell: Progress) -> dict[str, dict[str, Any]]:
    """Return the targets that would be refused, each with its "error" and "exit_code".

    The model is opened and converted to the float forms, and the data is fitted to it. Nothing is
    trained, calibrated or judged.

    Raises:
        CompilerError: nothing could be compiled at all.
    """
    plans = plan(options)
    tell("import", None)
    source = import_model(options.model, parse_shapes(options.shapes))
    tell("read the data", None)
    given = read_given(options, source)
    forms, floats = given.forms(source, lambda step: tell(step, None)), given.floats(options)
    refused = {}
    for one in plans:
        known = floats is not None and floats.recall(forms, one.format)
        made = attempted(one.profile.name, partial(layers_of, forms, one.profile, one.format))
        if isinstance(made, TargetResult):
            refused[made.target] = {"error": made.error, "exit_code": made.exit_code}
        if floats is not None and not known:
            floats.keep(forms, one.format)
    settled(plans, forms)
    return refused


__all__ = ["CompileOptions", "Plan", "TargetResult", "compile_model", "plan", "rehearse"]
