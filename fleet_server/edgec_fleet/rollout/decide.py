"""Decides what happens next in a rollout. No I/O, no clock: frozen data in, steps out.

The rules run in the order of `RULES` until none has anything to say:

1. a device that was told and stays silent is timed out, an online one without progress fails;
2. a device that `failed` is queued again while its group allows retries;
3. a group whose failures pass its error gate fails, and the rollout pauses;
4. a running group that meets its success threshold, and has soaked, succeeds; one that is
   complete below the threshold fails, and the rollout pauses;
5. the next group starts when every group before it has succeeded;
6. queued devices of started groups are told, within the rate;
7. the rollout is complete when all groups succeeded and no device is left open.

Counting. A group's total is every device that committed, failed or is still open. A device that
timed out or was cancelled leaves the total, and so do failures from before the last resume: the
operator who resumes has seen and accepted them. `failed`, `rejected` and `rolled_back` all count
as failures. Nothing but `committed` counts as success.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from edgec_fleet.rollout.reasons import names, share

OPEN = frozenset({"queued", "assigned", "in_progress"})
TOLD = frozenset({"assigned", "in_progress"})
FAILURES = frozenset({"failed", "rejected", "rolled_back"})
STARTED = frozenset({"running", "succeeded"})
PATIENT_PHASES = frozenset({"shadow", "probation"})  # no change for hours is what they are for

RETRY_DELAY_S = 30.0  # before the first retry; doubles with each


@dataclass(frozen=True, slots=True)
class Gates:
    """When a group may go on, and when it must stop. Thresholds are fractions 0..1."""

    success_threshold: float = 1.0
    error_threshold: float = 0.0
    minimum_executed: int = 1
    soak_s: float = 0.0
    device_timeout_s: float = 3600.0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """One device of a group.

    `since` is when `state` or `phase` last changed; `attempts` counts how often it was told.
    """

    device: str
    since: datetime
    state: str = "queued"
    phase: str | None = None
    reason: str | None = None
    online: bool = True
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """One step of the rollout; `targets` in the order in which they are told."""

    name: str
    gates: Gates = field(default_factory=Gates)
    targets: tuple[Target, ...] = ()
    state: str = "waiting"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as it stands.

    `told` holds the instants at which devices were told, newest last, of at least the last
    `rate_window_s`. Failures up to `accepted_until` (the last resume) no longer count.
    """

    groups: tuple[Group, ...]
    state: str = "running"
    rate_per_minute: float | None = None
    told: tuple[datetime, ...] = ()
    accepted_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One transition, and why. `subject` is "rollout", "group" or "device".

    `group` is the index of the group concerned (None for the rollout), `device` the device's id
    for a device step only.
    """

    subject: str
    before: str
    after: str
    why: str
    group: int | None = None
    device: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tally:
    """A group in numbers. `total` is the denominator of both gates."""

    committed: int
    open: int
    silent: int  # timed out, and not accepted by a resume
    failures: tuple[Target, ...]

    @property
    def total(self) -> int:
        """Devices that count: committed, failed and open."""
        return self.committed + self.open + len(self.failures)

    @property
    def executed(self) -> int:
        """Devices that came to an end, good or bad."""
        return self.committed + len(self.failures)

    def as_evidence(self) -> dict[str, Any]:
        """Return the numbers as plain JSON."""
        return {
            "committed": self.committed,
            "open": self.open,
            "timed_out": self.silent,
            "failed": [target.device for target in self.failures],
            "total": self.total,
        }


def decide(rollout: Rollout, now: datetime) -> tuple[Step, ...]:
    """Return every step due at `now`, in the order in which they happen.

    A rollout that is not running only has its silent devices timed out.
    """
    steps: list[Step] = []
    while True:
        rules = RULES if rollout.state == "running" else (_time_out,)
        due = next((found for rule in rules if (found := tuple(rule(rollout, now)))), ())
        if not due:
            return tuple(steps)
        steps.extend(due)
        rollout = apply(rollout, due, now)


def apply(rollout: Rollout, steps: Sequence[Step], now: datetime) -> Rollout:
    """Return `rollout` after `steps`, which name each device at most once."""
    moved: dict[int | None, dict[str | None, Step]] = {}
    for step in steps:
        moved.setdefault(step.group, {})[step.device] = step
    groups = tuple(
        _apply_group(group, moved.get(index, {}), now) for index, group in enumerate(rollout.groups)
    )
    told = sum(step.after == "assigned" for step in steps)
    whole = moved.get(None, {}).get(None)
    return replace(
        rollout,
        groups=groups,
        state=whole.after if whole else rollout.state,
        told=(*rollout.told, *[now] * told),
    )


def _apply_group(group: Group, moved: Mapping[str | None, Step], now: datetime) -> Group:
    if not moved:
        return group
    whole = moved.get(None)
    targets = tuple(
        _apply_target(target, step, now) if (step := moved.get(target.device)) else target
        for target in group.targets
    )
    return replace(group, targets=targets, state=whole.after if whole else group.state)


def _apply_target(target: Target, step: Step, now: datetime) -> Target:
    told = step.after == "assigned"
    return replace(
        target,
        state=step.after,
        since=now,
        phase=None if told else target.phase,
        reason=step.why if step.after in FAILURES else target.reason,
        attempts=target.attempts + told,
    )


def reported(state: str, phase: str) -> str | None:
    """Return the state that a device in `state` goes to when it reports `phase`, or None.

    A commit can still turn into `rolled_back` (a later fallback); a device that was given up or
    had failed may try again by itself. What was cancelled or not told is not moved by reports.
    """
    if phase == "idle" or state in ("queued", "cancelled"):
        return None
    after = phase if phase in FAILURES or phase == "committed" else "in_progress"
    movable = {
        "assigned": True,
        "in_progress": True,
        "timed_out": True,
        "failed": True,
        "committed": after == "rolled_back",
    }
    return after if movable.get(state, False) else None


def tally(group: Group, accepted_until: datetime | None) -> Tally:
    """Count the devices of `group`."""
    accepted = [
        accepted_until is not None and target.since <= accepted_until for target in group.targets
    ]
    pairs = tuple(zip(group.targets, accepted, strict=True))
    return Tally(
        committed=sum(target.state == "committed" for target in group.targets),
        open=sum(_is_open(target, group.gates) for target in group.targets),
        silent=sum(target.state == "timed_out" and not seen for target, seen in pairs),
        failures=tuple(
            target
            for target, seen in pairs
            if target.state in FAILURES and not seen and not _will_retry(target, group.gates)
        ),
    )


def rate_window_s(rate_per_minute: float) -> float:
    """Return the seconds over which at most `rate_limit` devices may be told."""
    return max(60.0, 60.0 / rate_per_minute)


def rate_limit(rate_per_minute: float) -> int:
    """Return how many devices may be told within one `rate_window_s`."""
    return max(1, math.floor(rate_per_minute))


def _will_retry(target: Target, gates: Gates) -> bool:
    return target.state == "failed" and 0 < target.attempts <= gates.retries


def _is_open(target: Target, gates: Gates) -> bool:
    return target.state in OPEN or _will_retry(target, gates)


def _time_out(rollout: Rollout, now: datetime) -> Iterator[Step]:
    for index, group in enumerate(rollout.groups):
        limit = timedelta(seconds=group.gates.device_timeout_s)
        for target in group.targets:
            if target.state not in TOLD or now - target.since <= limit:
                continue
            doing = f"in phase {target.phase}" if target.phase else "after it was told"
            if not target.online:
                why = f"offline, and silent for {limit.total_seconds():g} s {doing}"
                yield Step("device", target.state, "timed_out", why, index, target.device)
            elif target.phase not in PATIENT_PHASES:
                why = f"online, but no progress for {limit.total_seconds():g} s {doing}"
                yield Step("device", target.state, "failed", why, index, target.device)


def _retry(rollout: Rollout, now: datetime) -> Iterator[Step]:
    for index, group in enumerate(rollout.groups):
        for target in group.targets:
            if not _will_retry(target, group.gates):
                continue
            delay = timedelta(seconds=RETRY_DELAY_S * 2 ** (target.attempts - 1))
            if now - target.since >= delay:
                why = f"retry {target.attempts} of {group.gates.retries}: {target.reason or ''}"
                yield Step("device", "failed", "queued", why.rstrip(": "), index, target.device)


def _check_errors(rollout: Rollout, now: datetime) -> Iterator[Step]:
    for index, group in enumerate(rollout.groups):
        counts = tally(group, rollout.accepted_until)
        failed, gates = len(counts.failures), group.gates
        if (
            group.state in STARTED
            and counts.executed >= gates.minimum_executed
            and counts.total > 0
            and failed / counts.total > gates.error_threshold
        ):
            why = (
                f"group {group.name} exceeded its error threshold: {failed} of {counts.total} "
                f"devices failed, allowed {share(gates.error_threshold, counts.total)}: "
                f"{names(counts.failures)}"
            )
            yield from _stop(index, group, why, counts)
            return


def _finish_groups(rollout: Rollout, now: datetime) -> Iterator[Step]:
    for index, group in enumerate(rollout.groups):
        if group.state != "running":
            continue
        counts = tally(group, rollout.accepted_until)
        if counts.total == 0 and counts.silent:
            why = (
                f"group {group.name} gave no evidence: none of its {counts.silent} devices "
                f"answered within {group.gates.device_timeout_s:g} s"
            )
            yield from _stop(index, group, why, counts)
        elif counts.total == 0:
            why = f"group {group.name} has no device to update"
            yield Step("group", "running", "succeeded", why, index, None, counts.as_evidence())
        elif counts.committed >= _needed(group.gates, counts.total):
            if now - _met_at(group, counts) >= timedelta(seconds=group.gates.soak_s):
                why = _success(group, counts)
                yield Step("group", "running", "succeeded", why, index, None, counts.as_evidence())
        elif counts.open == 0:
            why = (
                f"group {group.name} is complete below its success threshold: {counts.committed} "
                f"of {counts.total} devices committed, at least "
                f"{_needed(group.gates, counts.total)} needed: {names(counts.failures)}"
            )
            yield from _stop(index, group, why, counts)
        return  # groups run in order: only the first running one is judged


def _start_group(rollout: Rollout, now: datetime) -> Iterator[Step]:
    for index, group in enumerate(rollout.groups):
        if group.state == "waiting":
            before = f"group {rollout.groups[index - 1].name} succeeded" if index else "first group"
            why = f"{before}: {len(group.targets)} devices follow"
            yield Step("group", "waiting", "running", why, index)
            return
        if group.state != "succeeded":
            return


def _assign(rollout: Rollout, now: datetime) -> Iterator[Step]:
    budget = _budget(rollout, now)
    for index, group in enumerate(rollout.groups):
        for target in group.targets:
            if group.state not in STARTED or target.state != "queued":
                continue
            if budget <= 0:
                return
            budget -= 1
            why = "its turn" if target.attempts == 0 else f"told again, time {target.attempts + 1}"
            yield Step("device", "queued", "assigned", why, index, target.device)


def _complete(rollout: Rollout, now: datetime) -> Iterator[Step]:
    counts = [tally(group, rollout.accepted_until) for group in rollout.groups]
    if all(group.state == "succeeded" for group in rollout.groups) and not any(
        each.open for each in counts
    ):
        committed = sum(each.committed for each in counts)
        others = sum(len(group.targets) for group in rollout.groups) - committed
        why = f"{committed} devices committed" + (f", {others} did not" if others else "")
        yield Step("rollout", "running", "completed", why)


Rule = Callable[[Rollout, datetime], Iterator[Step]]
RULES: tuple[Rule, ...] = (
    _time_out,
    _retry,
    _check_errors,
    _finish_groups,
    _start_group,
    _assign,
    _complete,
)


def _stop(index: int, group: Group, why: str, counts: Tally) -> Iterator[Step]:
    yield Step("group", group.state, "failed", why, index, None, counts.as_evidence())
    yield Step("rollout", "running", "paused", why, None, None, counts.as_evidence())


def _budget(rollout: Rollout, now: datetime) -> float:
    rate = rollout.rate_per_minute
    if rate is None:
        return math.inf
    start = now - timedelta(seconds=rate_window_s(rate))
    return rate_limit(rate) - sum(instant > start for instant in rollout.told)


def _needed(gates: Gates, total: int) -> int:
    return math.ceil(gates.success_threshold * total - 1e-9)


def _met_at(group: Group, counts: Tally) -> datetime:
    """Return when the last commit that the threshold needs came in."""
    commits = sorted(target.since for target in group.targets if target.state == "committed")
    needed = _needed(group.gates, counts.total)
    return commits[needed - 1] if needed else min(target.since for target in group.targets)


def _success(group: Group, counts: Tally) -> str:
    soak = f" and soaked for {group.gates.soak_s:g} s" if group.gates.soak_s else ""
    silent = f"; {counts.silent} timed out" if counts.silent else ""
    return f"{counts.committed} of {counts.total} devices committed{soak}{silent}"
