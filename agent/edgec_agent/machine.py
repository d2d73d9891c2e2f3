"""The life of an update, as data and pure decisions. No I/O, no clock.

`Phase` and `move` say which steps are legal; `plan` says what an assignment means for one model;
`retry_delay_s` when to try again; `judge` whether a model in probation stays. The acts
themselves are in `updater`.
"""

import math
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where an update is. The names are those of the wire."""

    IDLE = "idle"
    OFFERED = "offered"  # verified assignment; its manifest is not yet here
    FETCHING = "fetching"
    PATCHING = "patching"
    VERIFYING = "verifying"  # everything is here; re-read and hashed
    TESTING = "testing"  # golden and acceptance sets, in a child process
    STAGED = "staged"
    SHADOW = "shadow"  # watches live inputs, does not answer
    PROBATION = "probation"  # answers; the previous model is the yardstick
    COMMITTED = "committed"
    REJECTED = "rejected"  # not for this device: not retried
    FAILED = "failed"  # retried with backoff
    ROLLED_BACK = "rolled_back"


_P = Phase
_GIVE_UP = {_P.FAILED, _P.IDLE}  # IDLE: another assignment took its place
_NEXT: dict[Phase, set[Phase]] = {
    _P.IDLE: {_P.OFFERED},
    _P.OFFERED: {_P.FETCHING, _P.REJECTED, *_GIVE_UP},
    _P.FETCHING: {_P.PATCHING, _P.VERIFYING, _P.REJECTED, *_GIVE_UP},
    _P.PATCHING: {_P.VERIFYING, _P.FETCHING, _P.REJECTED, *_GIVE_UP},
    _P.VERIFYING: {_P.TESTING, _P.FETCHING, _P.REJECTED, *_GIVE_UP},
    _P.TESTING: {_P.STAGED, _P.FETCHING, _P.REJECTED, *_GIVE_UP},
    _P.STAGED: {_P.SHADOW, _P.PROBATION, _P.FETCHING, _P.REJECTED, *_GIVE_UP},
    _P.SHADOW: {_P.STAGED, _P.PROBATION, _P.REJECTED, *_GIVE_UP},
    _P.PROBATION: {_P.COMMITTED, _P.ROLLED_BACK, _P.FAILED},  # FAILED: no way back either
    _P.COMMITTED: {_P.OFFERED, _P.ROLLED_BACK, _P.IDLE},
    _P.REJECTED: {_P.OFFERED, _P.IDLE},
    _P.FAILED: {_P.OFFERED, _P.REJECTED, _P.IDLE},
    _P.ROLLED_BACK: {_P.OFFERED, _P.IDLE},
}
IN_PROGRESS = frozenset(_P) - {_P.IDLE, _P.COMMITTED, _P.REJECTED, _P.FAILED, _P.ROLLED_BACK}
REMEMBERED = frozenset({_P.REJECTED, _P.ROLLED_BACK})  # final for this manifest


def move(now: Phase, to: Phase) -> Phase:
    """Return `to`. Raises RuntimeError if an update cannot go there from `now`."""
    if to not in _NEXT[now]:
        raise RuntimeError(f"an update cannot go from {now} to {to}")
    return to


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and after how long, something that failed is tried again."""

    attempts: int = 8  # then it stays failed until the server assigns it anew
    base_s: float = 10.0
    longest_s: float = 900.0


def retry_delay_s(failures: int, policy: Retry, chance: float) -> float | None:
    """Return the seconds to wait after the `failures`-th failure, or None: give up.

    Args:
        failures: at least 1.
        chance: uniform in 0..1; spreads a fleet that failed at the same moment.
    """
    if failures >= policy.attempts:
        return None
    return backoff_s(failures, policy.base_s, policy.longest_s, chance)


def backoff_s(failures: int, base_s: float, longest_s: float, chance: float) -> float:
    """Return a delay that doubles with each failure up to `longest_s`, times 0.5..1."""
    delay: float = base_s * 2.0 ** min(failures - 1, 30)
    return min(longest_s, delay) * (0.5 + chance / 2)


class Plan(StrEnum):
    """What an assignment means for one model."""

    KEEP = "keep"  # nothing to do
    BEGIN = "begin"
    REFRESH = "refresh"  # the same update, with new facts on where its bytes are
    DROP = "drop"  # the update in progress is no longer wanted
    RETURN = "return"  # to the previous model: the one in probation is no longer wanted
    WAIT = "wait"  # until the probation in progress has its verdict
    REFUSE = "refuse"  # judged before, and not asked to try again


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an earlier try of a manifest ended."""

    outcome: Phase  # REJECTED or ROLLED_BACK
    reason: str
    counter: int  # of the assignment that led to it
    rollout: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an assignment asks for, for one model."""

    manifest: str
    counter: int
    rollout: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a device has, and does, of one model."""

    active: str | None  # digests of manifests
    previous: str | None
    phase: Phase
    candidate: str | None
    failures: int = 0  # of the candidate
    counter: int = 0  # of the assignment that the candidate came with


def plan(wanted: Wanted, standing: Standing, verdict: Verdict | None, attempts: int) -> Plan:
    """Return what `wanted` means here.

    A verdict stands until the server names the manifest again in another assignment *and*
    another rollout: that is an operator's decision, not a redelivered message.

    Args:
        verdict: on `wanted.manifest`, if it was tried before.
        attempts: how many failures are retried.
    """
    phase = standing.phase
    if phase is Phase.PROBATION:
        if wanted.manifest == standing.candidate:
            return Plan.REFRESH
        return Plan.RETURN if wanted.manifest == standing.previous else Plan.WAIT
    if wanted.manifest == standing.active:
        return Plan.DROP if phase in IN_PROGRESS or phase is Phase.FAILED else Plan.KEEP
    if wanted.manifest == standing.candidate:
        if phase in IN_PROGRESS:
            return Plan.REFRESH
        if phase is Phase.FAILED:
            exhausted = standing.failures >= attempts
            renewed = wanted.counter > standing.counter
            return Plan.BEGIN if exhausted and renewed else Plan.REFRESH
    if verdict is not None and not _asked_again(wanted, verdict):
        return Plan.REFUSE
    return Plan.BEGIN


def _asked_again(wanted: Wanted, verdict: Verdict) -> bool:
    return (
        wanted.counter > verdict.counter
        and wanted.rollout is not None
        and wanted.rollout != verdict.rollout
    )


@dataclass(frozen=True, slots=True)
class Probation:
    """When a new model has proven itself on live inputs, relative to what worked before."""

    samples: int = 200  # compared rows after which the verdict falls
    seconds: float = 600.0  # or this long after the swap
    minimum_samples: int = 20  # fewer are judged only if they leave no doubt
    minimum_agreement: float = 0.8  # fraction of rows with the same answer
    max_error_ratio: float = 0.01  # failed fraction of rows, above the yardstick's own
    latency_factor: float = 3.0  # p95, relative to the yardstick's
    latency_slack_ms: float = 20.0
    stalled_s: float = 60.0  # one run may take no longer
    restarts: int = 3  # of the agent, unasked, while in probation


@dataclass(frozen=True, slots=True)
class Watched:
    """What the comparison of a new model with its yardstick has shown so far."""

    samples: int = 0
    agreed: int = 0
    errors: int = 0  # rows that the new model failed
    yardstick_errors: int = 0
    p95_ms: float | None = None
    yardstick_p95_ms: float | None = None
    stalled_s: float = 0.0

    @property
    def agreement(self) -> float | None:
        """Fraction of rows with the same answer; None without rows."""
        return self.agreed / self.samples if self.samples else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """`stays` is None while there is no verdict yet."""

    stays: bool | None
    reason: str = ""


def judge(seen: Watched, elapsed_s: float, policy: Probation) -> Judgement:
    """Return whether the new model stays, goes, or must be watched further.

    1. A run that hangs: goes.
    2. Already so many disagreements, or errors, that even a perfect rest could not save it: goes.
    3. Enough samples: stays if agreement, errors and latency keep their bounds.
    4. Time over: the same, if there are at least `minimum_samples`; with fewer it goes only if
       so many disagreements are improbable (below 1 %) for a model at the bound.
    """
    if seen.stalled_s > policy.stalled_s:
        return Judgement(False, f"one run took longer than {policy.stalled_s:g} s")
    enough = max(policy.samples, 1)
    if breach := _hopeless(seen, enough, policy):
        return Judgement(False, breach)
    if seen.samples < enough and elapsed_s < policy.seconds:
        return Judgement(None)
    if seen.samples >= min(policy.minimum_samples, enough):
        breach = _breach(seen, policy)
        return Judgement(not breach, breach)
    if seen.samples and _improbable(seen, policy):
        return Judgement(False, _disagrees(seen, policy))
    return Judgement(True)


def _hopeless(seen: Watched, enough: int, policy: Probation) -> str:
    rows = max(enough, seen.samples)
    if seen.samples >= min(policy.minimum_samples, enough):
        if seen.samples - seen.agreed > (1 - policy.minimum_agreement) * rows + 1e-9:
            return _disagrees(seen, policy)
        if seen.errors > policy.max_error_ratio * rows + seen.yardstick_errors:
            return _fails(seen)
    return ""


def _breach(seen: Watched, policy: Probation) -> str:
    if seen.agreed < policy.minimum_agreement * seen.samples - 1e-9:
        return _disagrees(seen, policy)
    if seen.errors - seen.yardstick_errors > policy.max_error_ratio * seen.samples:
        return _fails(seen)
    if seen.p95_ms is not None and seen.yardstick_p95_ms is not None:
        bound = policy.latency_factor * seen.yardstick_p95_ms + policy.latency_slack_ms
        if seen.p95_ms > bound:
            return f"p95 latency {seen.p95_ms:.1f} ms is above {bound:.1f} ms"
    return ""


def _improbable(seen: Watched, policy: Probation) -> bool:
    """Whether a model that agrees as rarely as is allowed would seldom disagree this often."""
    p, n = 1 - policy.minimum_agreement, seen.samples
    tail = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n - seen.agreed, n + 1))
    return tail < 0.01


def _disagrees(seen: Watched, policy: Probation) -> str:
    return (
        f"agreement with the previous model {seen.agreed / seen.samples:.3f} on {seen.samples} "
        f"live samples is below {policy.minimum_agreement:g}"
    )


def _fails(seen: Watched) -> str:
    return (
        f"failed {seen.errors} of {seen.samples} live samples, the previous model "
        f"{seen.yardstick_errors}"
    )
