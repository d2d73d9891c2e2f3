"""Decisions, without anything that acts on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_agent.machine import (
    IN_PROGRESS,
    Phase,
    Plan,
    Probation,
    Retry,
    Standing,
    Verdict,
    Wanted,
    Watched,
    backoff_s,
    judge,
    move,
    plan,
    retry_delay_s,
)
from edgec_bundle.messages import PHASES

A, B, C = "a" * 64, "b" * 64, "c" * 64
POLICY = Probation(samples=100, seconds=60, minimum_samples=20, minimum_agreement=0.9)


def test_the_phases_are_those_of_the_wire():
    assert tuple(Phase) == PHASES


def test_an_update_cannot_skip_its_test():
    with pytest.raises(RuntimeError, match="from fetching to committed"):
        move(Phase.FETCHING, Phase.COMMITTED)
    for phase in IN_PROGRESS - {Phase.STAGED, Phase.SHADOW}:
        with pytest.raises(RuntimeError):
            move(phase, Phase.PROBATION)


def test_from_every_phase_there_is_a_way_on():
    for phase in Phase:
        legal = []
        for to in Phase:
            try:
                legal.append(move(phase, to))
            except RuntimeError:
                continue
        assert legal, phase


# -- what an assignment means ------------------------------------------------------------------


def standing(phase=Phase.COMMITTED, active=A, previous=None, candidate=A, **more):
    return Standing(active, previous, phase, candidate, **more)


REFUSED = Verdict(Phase.ROLLED_BACK, "worse", 5, "r1")


@pytest.mark.parametrize(
    ("name", "wanted", "now", "verdict", "expected"),
    [
        ("nothing here yet", Wanted(A, 1, None), standing(Phase.IDLE, None), None, Plan.BEGIN),
        ("it runs", Wanted(A, 2, None), standing(), None, Plan.KEEP),
        ("a new one", Wanted(B, 2, None), standing(), None, Plan.BEGIN),
        (
            "under way",
            Wanted(B, 2, None),
            standing(Phase.FETCHING, candidate=B),
            None,
            Plan.REFRESH,
        ),
        (
            "called back before the swap",
            Wanted(A, 3, None),
            standing(Phase.TESTING, candidate=B),
            None,
            Plan.DROP,
        ),
        (
            "another one instead",
            Wanted(C, 3, None),
            standing(Phase.TESTING, candidate=B),
            None,
            Plan.BEGIN,
        ),
        (
            "called back in probation",
            Wanted(A, 3, None),
            standing(Phase.PROBATION, active=B, previous=A, candidate=B),
            None,
            Plan.RETURN,
        ),
        (
            "a third one in probation",
            Wanted(C, 3, None),
            standing(Phase.PROBATION, active=B, previous=A, candidate=B),
            None,
            Plan.WAIT,
        ),
        (
            "refused, same assignment",
            Wanted(B, 5, "r1"),
            standing(Phase.ROLLED_BACK, candidate=B),
            REFUSED,
            Plan.REFUSE,
        ),
        (
            "refused, new counter only",
            Wanted(B, 6, "r1"),
            standing(Phase.ROLLED_BACK, candidate=B),
            REFUSED,
            Plan.REFUSE,
        ),
        (
            "refused, new rollout but old counter",
            Wanted(B, 5, "r2"),
            standing(Phase.ROLLED_BACK, candidate=B),
            REFUSED,
            Plan.REFUSE,
        ),
        (
            "refused, asked again",
            Wanted(B, 6, "r2"),
            standing(Phase.ROLLED_BACK, candidate=B),
            REFUSED,
            Plan.BEGIN,
        ),
        (
            "failed, still trying",
            Wanted(B, 6, None),
            standing(Phase.FAILED, candidate=B, failures=1, counter=5),
            None,
            Plan.REFRESH,
        ),
        (
            "failed for good",
            Wanted(B, 5, None),
            standing(Phase.FAILED, candidate=B, failures=3, counter=5),
            None,
            Plan.REFRESH,
        ),
        (
            "failed for good, assigned anew",
            Wanted(B, 6, None),
            standing(Phase.FAILED, candidate=B, failures=3, counter=5),
            None,
            Plan.BEGIN,
        ),
    ],
)
def test_what_an_assignment_means(name, wanted, now, verdict, expected):
    assert plan(wanted, now, verdict, attempts=3) is expected, name


# -- retries -----------------------------------------------------------------------------------


@given(
    failures=st.integers(1, 10_000),
    chance=st.floats(0, 1),
    base=st.floats(0.01, 100),
    longest=st.floats(1, 10_000),
)
def test_backoff_is_bounded_and_never_zero(failures, chance, base, longest):
    delay = backoff_s(failures, base, longest, chance)

    assert 0 < delay <= longest
    assert delay >= min(base, longest) / 2


def test_after_the_last_attempt_there_is_no_next_one():
    policy = Retry(attempts=3, base_s=1, longest_s=10)

    assert [retry_delay_s(n, policy, 1.0) for n in (1, 2, 3)] == [1.0, 2.0, None]


# -- probation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "seen", "elapsed", "stays"),
    [
        ("too early", Watched(samples=50, agreed=50), 10, None),
        ("enough, and good", Watched(samples=100, agreed=95), 10, True),
        ("enough, at the bound", Watched(samples=100, agreed=90), 10, True),
        ("enough, just below", Watched(samples=100, agreed=89), 10, False),
        ("hopeless before the end", Watched(samples=30, agreed=10), 1, False),
        ("not yet hopeless", Watched(samples=30, agreed=22), 1, None),
        ("no traffic at all", Watched(), 61, True),
        ("no traffic yet", Watched(), 59, None),
        ("little traffic, one disagreement", Watched(samples=1, agreed=0), 61, True),
        ("little traffic, all disagree", Watched(samples=5, agreed=0), 61, False),
        ("time over, enough to judge, good", Watched(samples=25, agreed=25), 61, True),
        ("time over, enough to judge, bad", Watched(samples=25, agreed=20), 61, False),
        (
            "it fails, the yardstick doesn't",
            Watched(samples=100, agreed=95, errors=5),
            1,
            False,
        ),
        (
            "both fail alike: the inputs are to blame",
            Watched(samples=100, agreed=95, errors=5, yardstick_errors=5),
            1,
            True,
        ),
        (
            "much slower",
            Watched(samples=100, agreed=100, p95_ms=200.0, yardstick_p95_ms=10.0),
            1,
            False,
        ),
        (
            "slower, but within bounds",
            Watched(samples=100, agreed=100, p95_ms=25.0, yardstick_p95_ms=10.0),
            1,
            True,
        ),
        ("it hangs", Watched(samples=0, stalled_s=61.0), 1, False),
    ],
)
def test_the_verdict_of_probation(name, seen, elapsed, stays):
    judgement = judge(seen, elapsed, POLICY)

    assert judgement.stays is stays, name
    assert bool(judgement.reason) == (stays is False)


@given(
    samples=st.integers(0, 1000),
    share=st.floats(0, 1),
    errors=st.integers(0, 1000),
    elapsed=st.floats(0, 1000),
)
def test_a_verdict_always_falls_in_the_end_and_rests_on_what_was_seen(
    samples, share, errors, elapsed
):
    seen = Watched(samples=samples, agreed=int(samples * share), errors=min(errors, samples))

    judgement = judge(seen, elapsed, POLICY)

    if elapsed >= POLICY.seconds or samples >= POLICY.samples:
        assert judgement.stays is not None
    if judgement.stays and samples >= POLICY.minimum_samples:
        assert seen.agreement >= POLICY.minimum_agreement - 1e-6


@given(samples=st.integers(20, 99), agreed=st.integers(0, 99))
def test_nothing_is_condemned_early_that_could_still_pass(samples, agreed):
    agreed = min(agreed, samples)
    best_end = Watched(samples=100, agreed=agreed + 100 - samples)

    if judge(Watched(samples=samples, agreed=agreed), 1, POLICY).stays is False:
        assert judge(best_end, 1, POLICY).stays is False
