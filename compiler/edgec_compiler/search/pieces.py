"""The searches of one run as pieces of work; targets whose candidates are the same share one."""

from collections.abc import Mapping, Sequence
from functools import partial

from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import Plan
from edgec_compiler.results import TargetResult, attempted, failure
from edgec_compiler.search.bench import Bench, Lab
from edgec_compiler.search.searching import Found, Goal, search
from edgec_compiler.search.targets import goal_of, grouped
from edgec_compiler.side_by_side import Ended, Here, Piece

Outcomes = Mapping[str, Found | TargetResult]  # by target


def search_pieces(lab: Lab, options: CompileOptions, plans: Sequence[Plan]) -> list[Piece]:
    """Return the searches that `plans` ask for; each ends with `Outcomes`."""
    goals = {one.profile.name: goal_of(options, one, lab) for one in plans}
    wanted = {name: goal for name, goal in goals.items() if goal is not None}
    return [
        Piece(" ".join(one.profile.name for one in group), partial(_search, lab, group, wanted))
        for group in grouped(wanted, plans, lab)
    ]


def outcomes_of(event: Ended) -> Outcomes:
    """Return what a piece has found for each of its targets, or how it died."""
    if event.death is not None:
        return {name: failure(name, f"its search {event.death}") for name in event.name.split()}
    outcomes: Outcomes = event.value
    return outcomes


def _search(lab: Lab, group: Sequence[Plan], goals: Mapping[str, Goal], here: Here) -> Outcomes:
    lab.forms.progress = lambda step: None  # a candidate is one step, whatever it takes
    bench = Bench(lab, group[0].profile, group[0].format)
    found = {}
    for one in group:
        name = one.profile.name
        work = partial(search, bench.at(one.profile), goals[name], partial(_tell, here, name))
        found[name] = attempted(name, work)
    return found


def _tell(here: Here, target: str, step: str) -> None:
    here.step(f"{target}: {step}")
