"""The rules of a rollout: given / when / then on frozen data, and laws over random histories."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgec_fleet.errors import RefusedError
from edgec_fleet.rollout.decide import (
    FAILURES,
    OPEN,
    Gates,
    Group,
    Rollout,
    Target,
    apply,
    decide,
    rate_limit,
    rate_window_s,
    reported,
    tally,
)
from edgec_fleet.rollout.spec import PRESETS, Candidate, GroupSpec, Spec, divide

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def group(name: str, states: str, state: str = "running", **gates: float) -> Group:
    """A group of devices <name>1, <name>2, ..; one letter of `states` each (see _LETTERS)."""
    targets = tuple(
        Target(f"{name}{index}", T0, _LETTERS[letter], attempts=int(letter != "q"))
        for index, letter in enumerate(states, 1)
    )
    return Group(name, Gates(**gates), targets, state)  # type: ignore[arg-type]


_LETTERS = {
    "q": "queued",
    "a": "assigned",
    "p": "in_progress",
    "c": "committed",
    "f": "failed",
    "r": "rejected",
    "b": "rolled_back",
    "t": "timed_out",
    "x": "cancelled",
}


def after(rollout: Rollout, seconds: float = 1) -> Rollout:
    return apply(rollout, decide(rollout, at(seconds)), at(seconds))


def states(rollout: Rollout, index: int = 0) -> list[str]:
    return [target.state for target in rollout.groups[index].targets]


def test_first_group_starts_and_only_its_devices_are_told() -> None:
    rollout = Rollout((group("a", "qq", "waiting"), group("b", "q", "waiting")))

    later = after(rollout)

    assert later.groups[0].state == "running"
    assert states(later) == ["assigned", "assigned"]
    assert (later.groups[1].state, states(later, 1)) == ("waiting", ["queued"])


def test_next_group_starts_when_the_success_threshold_is_met() -> None:
    rollout = Rollout(
        (group("a", "cca", success_threshold=0.6), group("b", "q", "waiting")),
    )

    later = after(rollout)

    assert [each.state for each in later.groups] == ["succeeded", "running"]
    assert states(later, 1) == ["assigned"]
    assert states(later) == ["committed", "committed", "assigned"]  # the straggler goes on


def test_group_soaks_before_the_next_one_starts() -> None:
    rollout = Rollout((group("a", "c", soak_s=60), group("b", "q", "waiting")))

    early, late = after(rollout, 59), after(rollout, 60)

    assert early == rollout
    assert late.groups[1].state == "running"


@pytest.mark.parametrize("letter", ["f", "r", "b"])
def test_failures_of_every_kind_pause_with_a_reason_that_names_group_numbers_and_devices(
    letter: str,
) -> None:
    failed = replace(
        group("canary", "c" + letter),
        targets=(
            Target("cam-1", T0, "committed", attempts=1),
            Target("cam-2", T0, _LETTERS[letter], reason="acceptance 0.12 below 0.9", attempts=1),
        ),
    )
    rollout = Rollout((failed, group("rest", "qq", "waiting")))

    steps = decide(rollout, at(1))

    assert [(step.subject, step.after) for step in steps] == [
        ("group", "failed"),
        ("rollout", "paused"),
    ]
    why = steps[-1].why
    assert "canary" in why
    assert "1 of 2 devices failed" in why
    assert "allowed 0 (0 %)" in why
    assert "cam-2" in why
    assert "acceptance 0.12 below 0.9" in why
    assert steps[-1].evidence["failed"] == ["cam-2"]


def test_error_gate_waits_for_its_minimum_of_executed_devices() -> None:
    few = Rollout((group("a", "fqqq", minimum_executed=2, error_threshold=0.2),))
    enough = Rollout((group("a", "fcqq", minimum_executed=2, error_threshold=0.2),))

    assert after(few).state == "running"
    assert after(enough).state == "paused"


def test_error_threshold_is_strict() -> None:
    rollout = Rollout((group("a", "fccc", error_threshold=0.25, success_threshold=0.5),))

    assert after(rollout).state == "completed"


def test_complete_group_below_its_success_threshold_does_not_advance() -> None:
    rollout = Rollout(
        (
            group("a", "ccff", success_threshold=0.9, error_threshold=0.5),
            group("b", "q", "waiting"),
        )
    )

    later = after(rollout)

    assert (later.state, later.groups[0].state, states(later, 1)) == (
        "paused",
        "failed",
        ["queued"],
    )
    assert "complete below its success threshold: 2 of 4" in decide(rollout, at(1))[0].why


def test_failure_in_an_earlier_group_still_pauses_the_rollout() -> None:
    rollout = Rollout((group("a", "cb", "succeeded"), group("b", "qa")))

    later = after(rollout)

    assert (later.state, later.groups[0].state) == ("paused", "failed")
    assert states(later, 1) == ["queued", "assigned"]


def test_offline_device_leaves_the_denominator_after_its_timeout() -> None:
    silent = Target("a2", T0, "assigned", online=False, attempts=1)
    given_up = replace(group("a", "ca"), targets=(group("a", "c").targets[0], silent))
    rollout = Rollout((given_up,))

    before, later = after(rollout, 3600), after(rollout, 3601)

    assert states(before) == ["committed", "assigned"]
    assert (states(later), later.state) == (["committed", "timed_out"], "completed")


def test_online_device_without_progress_fails_except_in_probation() -> None:
    stuck = Target("a1", T0, "in_progress", "fetching", attempts=1)
    patient = Target("a2", T0, "in_progress", "probation", attempts=1)
    rollout = Rollout((Group("a", Gates(error_threshold=1.0), (stuck, patient), "running"),))

    later = after(rollout, 3601)

    assert states(later) == ["failed", "in_progress"]
    assert "no progress for 3600 s in phase fetching" in (later.groups[0].targets[0].reason or "")


def test_group_whose_devices_all_stay_silent_gives_no_evidence_and_pauses() -> None:
    rollout = Rollout((group("a", "tt"), group("b", "q", "waiting")))

    later = after(rollout)

    assert (later.state, states(later, 1)) == ("paused", ["queued"])
    assert "none of its 2 devices answered" in decide(rollout, at(1))[0].why


def test_only_failed_devices_are_tried_again_and_only_as_often_as_allowed() -> None:
    rollout = Rollout((group("a", "frb", retries=1, error_threshold=1.0, success_threshold=0),))

    soon, later = after(rollout, 29), after(rollout, 30)
    again = replace(
        later,
        groups=(
            replace(
                later.groups[0],
                targets=tuple(
                    replace(one, state="failed") if one.device == "a1" else one
                    for one in later.groups[0].targets
                ),
            ),
        ),
    )

    assert states(soon) == ["failed", "rejected", "rolled_back"]
    assert states(later) == ["assigned", "rejected", "rolled_back"]
    assert states(after(again, 9999)) == ["failed", "rejected", "rolled_back"]


def test_retry_left_keeps_the_error_gate_quiet() -> None:
    rollout = Rollout((group("a", "f", retries=2),))

    assert after(rollout).state == "running"


def test_rate_bounds_how_many_devices_are_told() -> None:
    rollout = Rollout((group("a", "q" * 5, "waiting"),), rate_per_minute=2)

    first = after(rollout, 0)
    same_minute = after(first, 59)
    next_minute = after(first, 60)

    assert states(first).count("assigned") == 2
    assert states(same_minute) == states(first)
    assert states(next_minute).count("assigned") == 4


def test_rate_below_one_a_minute_tells_one_device_per_its_longer_window() -> None:
    rollout = Rollout((group("a", "qq", "waiting"),), rate_per_minute=0.5)

    first = after(rollout, 0)

    assert states(after(first, 119)) == ["assigned", "queued"]
    assert states(after(first, 120)) == ["assigned", "assigned"]


def test_paused_and_aborted_rollouts_tell_nobody() -> None:
    for state in ("paused", "aborted"):
        assert decide(Rollout((group("a", "qc"),), state), at(1)) == ()


def test_failures_seen_at_a_resume_no_longer_count() -> None:
    rollout = Rollout(
        (group("a", "cb"), group("b", "q", "waiting")), accepted_until=T0 + timedelta(seconds=5)
    )

    later = after(rollout, 6)

    assert (later.state, later.groups[1].state) == ("running", "running")


def test_empty_rollout_completes_and_says_so() -> None:
    rollout = Rollout((Group("a"),))

    steps = decide(rollout, at(1))

    assert [step.after for step in steps] == ["running", "succeeded", "completed"]
    assert "no device to update" in steps[1].why


def test_rollout_is_not_complete_while_a_device_is_open() -> None:
    rollout = Rollout((group("a", "cp", "succeeded", success_threshold=0.5),))

    assert decide(rollout, at(1)) == ()


@pytest.mark.parametrize(
    ("state", "phase", "expected"),
    [
        ("assigned", "offered", "in_progress"),
        ("in_progress", "committed", "committed"),
        ("in_progress", "probation", "in_progress"),
        ("in_progress", "rejected", "rejected"),
        ("failed", "fetching", "in_progress"),
        ("timed_out", "committed", "committed"),
        ("committed", "rolled_back", "rolled_back"),
        ("committed", "fetching", None),
        ("rolled_back", "committed", None),
        ("rejected", "fetching", None),
        ("cancelled", "committed", None),
        ("queued", "committed", None),
        ("assigned", "idle", None),
    ],
)
def test_reports_move_a_device_only_where_they_can(
    state: str, phase: str, expected: str | None
) -> None:
    assert reported(state, phase) == expected


# -- laws ------------------------------------------------------------------------------------

_groups = st.lists(
    st.builds(
        Gates,
        success_threshold=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
        error_threshold=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
        minimum_executed=st.integers(1, 3),
        soak_s=st.sampled_from([0.0, 20.0]),
        device_timeout_s=st.sampled_from([40.0, 200.0]),
        retries=st.integers(0, 2),
    ).flatmap(lambda gates: st.tuples(st.just(gates), st.integers(0, 4))),
    min_size=1,
    max_size=3,
)


class History(RuleBasedStateMachine):
    """A fleet that reports what it likes, an engine that ticks, an operator that meddles."""

    @initialize(groups=_groups, rate=st.sampled_from([None, 0.5, 1.0, 3.0]))
    def begin(self, groups: list[tuple[Gates, int]], rate: float | None) -> None:
        self.now = T0
        self.told: list[datetime] = []
        self.rollout = Rollout(
            tuple(
                Group(
                    f"g{index}",
                    gates,
                    tuple(Target(f"d{index}-{device}", T0) for device in range(count)),
                )
                for index, (gates, count) in enumerate(groups)
            ),
            rate_per_minute=rate,
        )

    @rule(seconds=st.sampled_from([0, 1, 15, 61, 300]))
    def tick(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        before = self.rollout
        steps = decide(before, self.now)
        self.rollout = apply_in_turn(before, steps, self.now)
        self.told += [self.now] * sum(step.after == "assigned" for step in steps)
        assert decide(self.rollout, self.now) == ()  # a tick leaves nothing undone
        assert all(step.why for step in steps)
        if before.state != "running":
            assert {step.after for step in steps} <= {"timed_out", "failed"}

    @rule(data=st.data(), phase=st.sampled_from(["fetching", "probation", "committed", *FAILURES]))
    def report(self, data: st.DataObject, phase: str) -> None:
        def hear(target: Target) -> Target:
            state = reported(target.state, phase)
            return replace(target, state=state, phase=phase, since=self.now) if state else target

        self._change(data, hear)

    @rule(data=st.data(), online=st.booleans())
    def connect(self, data: st.DataObject, online: bool) -> None:
        self._change(data, lambda target: replace(target, online=online))

    @rule()
    def resume(self) -> None:
        if self.rollout.state == "paused":
            groups = tuple(
                replace(each, state="running") if each.state == "failed" else each
                for each in self.rollout.groups
            )
            self.rollout = replace(
                self.rollout, state="running", groups=groups, accepted_until=self.now
            )

    def _change(self, data: st.DataObject, change: Callable[[Target], Target]) -> None:
        devices = [one.device for each in self.rollout.groups for one in each.targets]
        if not devices:
            return
        chosen = data.draw(st.sampled_from(devices))
        groups = tuple(
            replace(
                each,
                targets=tuple(change(one) if one.device == chosen else one for one in each.targets),
            )
            for each in self.rollout.groups
        )
        self.rollout = replace(self.rollout, groups=groups)

    @invariant()
    def groups_run_in_order(self) -> None:
        waiting = [each.state == "waiting" for each in self.rollout.groups]
        assert waiting == sorted(waiting)  # nobody starts before the one in front

    @invariant()
    def only_started_groups_are_told(self) -> None:
        for each in self.rollout.groups:
            if each.state == "waiting":
                assert all(one.state == "queued" for one in each.targets)

    @invariant()
    def rate_is_never_passed(self) -> None:
        rate = self.rollout.rate_per_minute
        if rate is not None:
            for instant in self.told:
                window = [
                    one
                    for one in self.told
                    if 0 <= (one - instant).total_seconds() < rate_window_s(rate)
                ]
                assert len(window) <= rate_limit(rate)

    @invariant()
    def completed_means_that_every_gate_holds(self) -> None:
        if self.rollout.state == "completed":
            for each in self.rollout.groups:
                assert each.state == "succeeded"


def apply_in_turn(rollout: Rollout, steps: tuple, now: datetime) -> Rollout:  # type: ignore[type-arg]
    for step in steps:
        rollout = apply(rollout, [step], now)
    return rollout


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=30)


@given(states=st.text("qapcfrbtx", max_size=12), retries=st.integers(0, 2))
def test_every_device_is_counted_at_most_once(states: str, retries: int) -> None:
    counts = tally(group("a", states, retries=retries), None)

    assert counts.total + counts.silent <= len(states)
    assert counts.executed + counts.open == counts.total
    assert counts.open >= sum(_LETTERS[letter] in OPEN for letter in states)


# -- the order ---------------------------------------------------------------------------------


@given(
    count=st.integers(0, 40),
    sizes=st.lists(
        st.one_of(
            st.builds(lambda n: {"count": n}, st.integers(1, 10)),
            st.builds(lambda n: {"percent": n}, st.integers(1, 100)),
            st.just({"filter": {"site": "a"}}),
        ),
        max_size=4,
    ),
    seed=st.text(max_size=3),
)
def test_groups_never_share_a_device_and_a_last_hundred_percent_takes_the_rest(
    count: int, sizes: list[dict[str, object]], seed: str
) -> None:
    candidates = [
        Candidate(f"d{index}", {"site": "ab"[index % 2]}, online=index % 3 > 0)
        for index in range(count)
    ]
    groups = [GroupSpec(f"g{i}", select) for i, select in enumerate([*sizes, {"percent": 100}])]

    divided = divide(groups, candidates, seed)

    everyone = [device for each in divided for device in each]
    assert sorted(everyone) == sorted(one.device for one in candidates)
    assert divided == divide(groups, list(reversed(candidates)), seed)


def test_devices_that_are_online_go_first() -> None:
    candidates = [Candidate(f"off{i}", online=False) for i in range(9)] + [Candidate("on")]

    canary, rest = divide(PRESETS["canary"], candidates, "any")

    assert canary == ("on",)
    assert len(rest) == 9


def test_percent_is_of_all_devices_and_rounded_up() -> None:
    candidates = [Candidate(f"d{i}") for i in range(30)]

    divided = divide(PRESETS["staged"], candidates, "any")

    assert [len(each) for each in divided] == [2, 8, 20]


def test_an_order_reads_back_as_itself() -> None:
    spec = Spec.from_json(
        {
            "model": "digits",
            "version": "1.1.0",
            "strategy": "staged",
            "groups": [
                {"name": "lab", "filter": {"site": "lab"}, "soak_s": 60, "retries": 2},
                {"name": "rest", "percent": 100, "error_threshold": 0.1},
            ],
            "rate_per_minute": 30,
        }
    )

    assert Spec.from_json(spec.to_json()) == spec
    assert spec.groups[0].gates.soak_s == 60


GOOD = {"model": "digits", "version": "1.0.0"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "Digits!"}, "name of a model"),
        ({"version": "new"}, "version like 1.2.0"),
        ({"strategy": "yolo"}, "canary, staged, all"),
        ({"colour": 1}, "no field colour"),
        ({"groups": []}, "list of 1 to"),
        ({"groups": [{"name": "a"}]}, "exactly one of"),
        ({"groups": [{"name": "a", "count": 1, "percent": 5}]}, "exactly one of"),
        ({"groups": [{"name": "a", "percent": 0}]}, "percent above 0"),
        ({"groups": [{"name": "a", "count": True}]}, "count of 1"),
        ({"groups": [{"name": "a", "devices": ["../x"]}]}, "device ids"),
        ({"groups": [{"name": "a", "count": 1, "success_threshold": 2}]}, "fraction"),
        ({"groups": [{"name": "a", "count": 1, "soak_s": float("nan")}]}, "number from 0"),
        ({"groups": [{"name": "a", "count": 1, "retries": 99}]}, "at most 10"),
        ({"groups": [{"name": "a", "count": 1, "speed": 1}]}, "no field speed"),
        ({"groups": [{"name": "a", "count": 1}, {"name": "a", "count": 1}]}, "different names"),
        ({"rate_per_minute": 0}, "above 0"),
    ],
)
def test_bad_orders_are_refused_with_what_was_expected(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(RefusedError, match=said):
        Spec.from_json({**GOOD, **change})
