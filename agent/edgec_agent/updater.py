"""The updater: takes assignments and commands in, and does the next step of one update at a time.

It runs in one thread. Whatever it is about to do stands in state.db first; `run_once` looks there,
does one step, and says when it wants to be called again. Serving never waits for it.
"""

import logging
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgec_agent.assignments import Assignments, Clock
from edgec_agent.download import BlockSource
from edgec_agent.errors import FetchError, InterruptedWorkError, OfflineError
from edgec_agent.identity import Identity
from edgec_agent.machine import IN_PROGRESS, Phase, backoff_s, retry_delay_s
from edgec_agent.offer import Offer
from edgec_agent.parts import Parts
from edgec_agent.service import Service
from edgec_agent.state import Update
from edgec_agent.steps import PREPARED_IN, Preparation
from edgec_agent.upkeep import collect, may_retry
from edgec_bundle.errors import BundleError, MessageError, NoSpaceError, StoreError, TrustError

logger = logging.getLogger(__name__)

_POLL_S = 0.2  # of a model on trial
_IDLE_S = 3600.0
_STORAGE_S = 5.0  # after which a failing disk is tried again
_HEALTHY_S = 30.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Not before `due` (monotonic seconds)."""

    due: float
    tries: int  # of something that waits for the network; 0: it failed, and `wake` is no reason


class Updater:
    """Brings this device to what its newest verified assignment says."""

    def __init__(self, parts: Parts, identity: Identity, root: bytes, now: Clock) -> None:
        """Prepare.

        Args:
            parts: what it works with.
            identity: who this device is.
            root: the TUF root that was pinned at enrolment.
            now: the local clock.
        """
        self.parts = parts
        self._waiting: dict[str, _Waiting] = {}
        self._desired: bytes | None = None  # taken in, not yet verified
        self._started = time.monotonic()
        self._healthy = False
        self.service = Service(parts)
        self.assignments = Assignments(parts, self.service, identity, root, now)
        self._preparation = Preparation(parts)

    def boot(self) -> None:
        """Serve what was served before, and tidy up."""
        self.service.boot()
        self.assignments.plan()
        self.collect()

    # -- assignments and commands ------------------------------------------------------------

    def take(self, payload: bytes) -> None:
        """Take in a message `desired`; it is verified by the next `run_once`."""
        if payload:  # an empty one only clears what the broker retained
            self._desired = payload
            self._waiting.pop("", None)

    def wake(self) -> None:
        """Try what waits for the network at once."""
        self._waiting = {key: one for key, one in self._waiting.items() if not one.tries}

    def accept(self, payload: bytes, sources: Sequence[BlockSource] | None = None) -> Offer:
        """Verify a message `desired` and begin what it asks for; see `Assignments.accept`."""
        offer = self.assignments.accept(payload, sources)
        self.assignments.plan()
        return offer

    def run_with(self, sources: Sequence[BlockSource]) -> dict[str, Phase]:
        """Bring every update as far as tested, with blobs from `sources`; return their phases.

        Raises:
            FetchError, StoreError: a blob can't be had; what was done so far is kept.
        """
        reached = {}
        offer = self.assignments.offer or Offer(0)
        for model in {assigned.model for assigned in offer.assigned}:
            update = self.parts.state.update(model)
            while update is not None and update.phase in PREPARED_IN:
                update = self._preparation.step(update, offer, sources)
            if update is not None:
                reached[model] = update.phase
        return reached

    def _accept_waiting(self) -> None:
        payload, self._desired = self._desired, None
        if payload is None:
            return
        try:
            offer = self.accept(payload)
            logger.info("assignment %d: %d models", offer.counter, len(offer.assigned))
        except (TrustError, MessageError) as error:
            logger.error("the assignment was refused: %s", error)
            self.assignments.report_refused(payload, str(error))
        except (FetchError, StoreError, InterruptedWorkError, OSError) as error:
            is_routine = isinstance(error, InterruptedWorkError)
            logger.log(
                logging.INFO if is_routine else logging.WARNING, "the assignment waits: %s", error
            )
            self._desired = self._desired or payload
            if isinstance(error, NoSpaceError):
                self.collect()
            if not is_routine:
                self._wait("", _rest_s(error))
            raise

    # -- steps -------------------------------------------------------------------------------

    def run_once(self) -> float:
        """Do what is due: verify an assignment, or one step of one update.

        Returns: after how many seconds to call again; 0 if there is more to do now.
        """
        self._note_health()
        try:
            if self._desired is not None and self._is_due(""):
                self._accept_waiting()
                return 0.0
            update = self._next()
            if update is None:
                return self._pause_s()
            return self._step(update)
        except InterruptedWorkError:
            return 0.0
        except (FetchError, StoreError, OSError):
            return self._pause_s()
        except sqlite3.Error as error:  # a full or failing disk; serving does not need it
            logger.error("state.db: %s", error)
            return _STORAGE_S

    def _step(self, update: Update) -> float:
        rest_s = 0.0
        try:
            after = self._do(update)
        except InterruptedWorkError:
            raise
        except OfflineError as error:
            logger.info("%s %s waits: %s", update.model, update.version, error)
            if error.progressed:
                self._waiting.pop(update.model, None)  # a good sign: back to short waits
            self._wait(update.model)
            return self._pause_s()
        except (FetchError, BundleError) as error:
            if isinstance(error, NoSpaceError):
                self.collect()
            rest_s = _rest_s(error)
            after = self._fail(update, *_blame(error), progressed=_progressed(error))
        except sqlite3.Error:
            raise
        except Exception as error:  # the edge: an update must not end the agent
            logger.exception("%s %s", update.model, update.version)
            after = self._fail(update, f"internal error: {error!r:.200}", "internal")
        else:
            self._waiting.pop(update.model, None)
        if after.phase in IN_PROGRESS:
            on_trial = after.phase in (Phase.PROBATION, Phase.SHADOW)
            return _POLL_S if on_trial and after.phase is update.phase else 0.0
        self._finished(after, rest_s)
        return 0.0

    def _do(self, update: Update) -> Update:
        match update.phase:
            case Phase.FAILED:
                return self.parts.journal.move(update, Phase.OFFERED, "another try")
            case Phase.STAGED:
                return self.service.stage(update)
            case Phase.SHADOW:
                return self.service.shadow(update)
            case Phase.PROBATION:
                return self.service.probation(update)
        return self._preparation.step(update, self.assignments.offer or Offer(0))

    def _fail(self, update: Update, reason: str, cause: str, *, progressed: bool = False) -> Update:
        """Write down a failure that another try may cure."""
        update = self.parts.state.update(update.model) or update  # as the step left it
        if update.phase in (Phase.PROBATION, Phase.FAILED):
            logger.error("%s %s: %s", update.model, update.version, reason)
            self._wait(update.model)
            return update
        failures = 1 if progressed else update.failures + 1
        attempt = {"number": failures, "of": self.parts.config.retry.attempts}
        evidence = {"attempt": attempt, "cause": cause}
        failed = replace(update, failures=failures)
        return self.parts.journal.move(failed, Phase.FAILED, reason, evidence)

    def _finished(self, update: Update, rest_s: float = 0.0) -> None:
        if update.phase is Phase.FAILED:
            chance = random.random()  # noqa: S311  # spreads a fleet, hides nothing
            delay_s = retry_delay_s(max(1, update.failures), self.parts.config.retry, chance)
            if delay_s is not None:
                due = time.monotonic() + max(delay_s, rest_s)
                self._waiting[update.model] = _Waiting(due, 0)
            return
        self.assignments.plan()
        self.collect()

    def _next(self) -> Update | None:
        """Return the update whose turn it is: one on trial before all others."""
        updates = self.parts.state.updates()
        on_trial = [one for one in updates if one.phase in (Phase.PROBATION, Phase.SHADOW)]
        others = [one for one in updates if one.phase in IN_PROGRESS and one not in on_trial]
        failed = [one for one in updates if one.phase is Phase.FAILED and self._may_retry(one)]
        for update in (*on_trial, *others, *failed):
            if self._is_due(update.model):
                return update
        return None

    def _may_retry(self, update: Update) -> bool:
        return may_retry(update, self.assignments.offer or Offer(0), self.parts.config.retry)

    def _is_due(self, key: str) -> bool:
        waiting = self._waiting.get(key)
        return waiting is None or waiting.due <= time.monotonic()

    def _wait(self, key: str, rest_s: float = 0.0) -> None:
        """Don't try `key` again for a while: longer each time, until something changes."""
        tries = self._waiting[key].tries + 1 if key in self._waiting else 1
        retry = self.parts.config.retry
        chance = random.random()  # noqa: S311  # spreads a fleet, hides nothing
        delay_s = backoff_s(tries, retry.base_s, retry.longest_s, chance)
        self._waiting[key] = _Waiting(time.monotonic() + max(delay_s, rest_s), tries)

    def _pause_s(self) -> float:
        now = time.monotonic()
        dues = [waiting.due - now for waiting in self._waiting.values() if waiting.due > now]
        if not self._healthy:
            dues.append(_HEALTHY_S)
        return min(dues, default=_IDLE_S)

    def _note_health(self) -> None:
        if not self._healthy and time.monotonic() - self._started > _HEALTHY_S:
            self._healthy = True
            self.service.mark_healthy()

    def collect(self) -> None:
        """Delete every blob that no slot and no update needs."""
        collect(self.parts, self.assignments.offer or Offer(0))

    def close(self) -> None:
        """End what is in progress so that the next start resumes it."""
        self.service.close()


def _rest_s(error: Exception) -> float:
    """Return for how long the server asked to be left alone; 0 if it did not."""
    return (error.retry_after_s or 0.0) if isinstance(error, FetchError) else 0.0


def _progressed(error: Exception) -> bool:
    return isinstance(error, FetchError) and error.progressed


def _blame(error: FetchError | BundleError) -> tuple[str, str]:
    """Return why a step failed, for people, and in one word for programs."""
    match error:
        case NoSpaceError():
            return f"no room: {error}", "no_space"
        case FetchError():
            return str(error), error.cause
    return str(error), "storage"
