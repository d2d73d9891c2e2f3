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
from datetime import datetime
from typing import Protocol

from edgec_agent.download import BlockSource
from edgec_agent.errors import FetchError, InterruptedWorkError, OfflineError
from edgec_agent.identity import Identity
from edgec_agent.machine import (
    IN_PROGRESS,
    Phase,
    Plan,
    Standing,
    Wanted,
    backoff_s,
    plan,
    retry_delay_s,
)
from edgec_agent.offer import Assigned, Offer, offer_of
from edgec_agent.parts import Parts
from edgec_agent.service import Service
from edgec_agent.state import Update
from edgec_agent.steps import Preparation, choose_patch, wants
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import BundleError, MessageError, NoSpaceError, StoreError, TrustError
from edgec_bundle.messages import Desired
from edgec_bundle.trust import MAX_SET_BYTES, TrustState, verify_offer

logger = logging.getLogger(__name__)

_POLL_S = 0.2  # of a model on trial
_IDLE_S = 3600.0
_STORAGE_S = 5.0  # after which a failing disk is tried again
_HEALTHY_S = 30.0


class Clock(Protocol):
    """The local clock, which may be wrong."""

    def __call__(self) -> datetime:
        """Return the time, with a time zone."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Not before `due` (monotonic seconds)."""

    due: float
    tries: int


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
        self._parts = parts
        self._identity = identity
        self._root = root
        self._now = now
        self._waiting: dict[str, _Waiting] = {}
        self._desired: bytes | None = None  # taken in, not yet verified
        self._started = time.monotonic()
        self._healthy = False
        self.service = Service(parts)
        self._preparation = Preparation(parts)

    def boot(self) -> None:
        """Serve what was served before, and tidy up."""
        self.service.boot()
        self._plan()
        self.collect()

    # -- assignments -------------------------------------------------------------------------

    @property
    def trust(self) -> TrustState:
        """What this device remembers of all that it ever trusted."""
        kept = self._parts.state.cell("trust")
        return TrustState.initial(self._root) if kept is None else TrustState.from_bytes(kept)

    @property
    def offer(self) -> Offer | None:
        """The newest verified assignment."""
        kept = self._parts.state.cell("offer")
        return None if kept is None else Offer.from_bytes(kept)

    def take(self, payload: bytes) -> None:
        """Take in a message `desired`; it is verified by the next `run_once`."""
        if payload:  # an empty one only clears what the broker retained
            self._desired = payload
            self._waiting.pop("", None)

    def wake(self) -> None:
        """Try what waits for the network at once."""
        self._waiting.clear()

    def accept(self, payload: bytes, sources: Sequence[BlockSource] | None = None) -> Offer:
        """Verify `desired` and write down what it asks for; return that.

        Args:
            payload: the message, from whomever.
            sources: for the metadata; None: the server.

        Raises:
            MessageError: not a message.
            TrustError: the proof is missing or wrong; nothing changes.
            FetchError, StoreError: the metadata can't be fetched or kept now.
        """
        desired = Desired.from_bytes(payload)
        wanted = desired.metadata
        if wanted.bytes > MAX_SET_BYTES:
            raise MessageError(f"a metadata set of {wanted.bytes} bytes is too large")
        if sources is None:
            sources = self._parts.sources(Offer(0, http=desired.http))
        self._parts.downloader.fetch(wanted.sha256, wanted.bytes, sources, desired.block_bytes)
        verified, trust = verify_offer(
            self.trust,
            director=desired.director,
            metadata_set=self._parts.store.read(wanted.sha256),
            tenant=self._identity.tenant,
            device=self._identity.device,
            now=self._now(),
        )
        self._parts.store.delete(wanted.sha256)
        offer = offer_of(desired, verified)
        state = self._parts.state
        with state.transaction():
            state.set_cell("trust", trust.to_bytes())
            state.set_cell("offer", offer.to_bytes())
            state.delete_cell("refused")
            self._plan()
        return offer

    def _accept_waiting(self) -> None:
        payload, self._desired = self._desired, None
        if payload is None:
            return
        try:
            offer = self.accept(payload)
            logger.info("assignment %d: %d models", offer.counter, len(offer.assigned))
        except (TrustError, MessageError) as error:
            logger.error("the assignment was refused: %s", error)
            self._report_refused(payload, str(error))
        except (FetchError, StoreError, InterruptedWorkError) as error:
            logger.warning("the assignment waits: %s", error)
            self._desired = self._desired or payload
            if not isinstance(error, InterruptedWorkError):
                self._wait("")
            raise

    def _report_refused(self, payload: bytes, reason: str) -> None:
        """Tell the server that an assignment was not believed, once for each such message."""
        state, digest = self._parts.state, sha256_hex(payload).encode()
        if state.cell("refused") == digest:
            return
        try:
            desired = Desired.from_bytes(payload)
        except MessageError:
            return
        with state.transaction():
            state.set_cell("refused", digest)
            for source in desired.sources:
                active = state.slots(source.model).active
                if source.role != "manifest" or (active and active.manifest == source.sha256):
                    continue
                before = state.update(source.model)
                unproven = Update(
                    model=source.model,
                    phase=Phase.REJECTED,
                    manifest=source.sha256,
                    version="?",
                    counter=0,
                    rollout=desired.rollouts.get(source.model),
                    reason=f"the assignment was refused: {reason}",
                )
                previous = before.phase if before else Phase.IDLE
                self._parts.journal.report(unproven, previous, {"trust": {"error": reason}})

    # -- planning ----------------------------------------------------------------------------

    def _plan(self) -> None:
        """Make the updates in state.db what the newest assignment asks for."""
        offer = self.offer
        if offer is None:
            return
        for assigned in offer.assigned:
            self._plan_one(assigned, offer)
        named = {assigned.model for assigned in offer.assigned}
        for update in self._parts.state.updates():
            droppable = update.phase in IN_PROGRESS - {Phase.PROBATION}
            if update.model not in named and (droppable or update.phase is Phase.FAILED):
                self._drop(update, "no longer assigned")

    def _plan_one(self, assigned: Assigned, offer: Offer) -> None:
        state, model = self._parts.state, assigned.model
        slots, update = state.slots(model), state.update(model)
        decision = plan(
            Wanted(assigned.sha256, offer.counter, assigned.rollout),
            Standing(
                active=slots.active.manifest if slots.active else None,
                previous=slots.previous.manifest if slots.previous else None,
                phase=update.phase if update else Phase.IDLE,
                candidate=update.manifest if update else None,
                failures=update.failures if update else 0,
                counter=update.counter if update else 0,
            ),
            state.verdict(model, assigned.sha256),
            self._parts.config.retry.attempts,
        )
        match decision:
            case Plan.BEGIN:
                self._begin(assigned, offer, update)
            case Plan.REFRESH if update is not None:
                if (update.counter, update.rollout) != (offer.counter, assigned.rollout):
                    state.save_update(
                        replace(update, counter=offer.counter, rollout=assigned.rollout)
                    )
            case Plan.DROP if update is not None:
                self._drop(update, "the version in service was assigned again")
                self._confirm(assigned, offer)
            case Plan.KEEP:
                self._confirm(assigned, offer)
            case Plan.RETURN if update is not None:
                reason = "the server assigned the previous version again"
                self.service.roll_back(update, reason, {})
            case Plan.REFUSE:
                self._refuse_again(assigned, offer)

    def _begin(self, assigned: Assigned, offer: Offer, before: Update | None) -> None:
        if before is not None and before.phase in IN_PROGRESS:
            self._drop(before, f"version {assigned.version} was assigned instead")
            before = replace(before, phase=Phase.IDLE)
        self._waiting.pop(assigned.model, None)
        update = Update(
            model=assigned.model,
            phase=Phase.OFFERED,
            manifest=assigned.sha256,
            version=assigned.version,
            counter=offer.counter,
            rollout=assigned.rollout,
        )
        with self._parts.state.transaction():
            self._parts.state.forget(assigned.model, assigned.sha256)
            self._parts.journal.begin(update, before.phase if before else Phase.IDLE)

    def _drop(self, update: Update, reason: str) -> None:
        self.service.abandon(update.model)
        self._parts.journal.move(update, Phase.IDLE, reason)

    def _confirm(self, assigned: Assigned, offer: Offer) -> None:
        """Tell a rollout that this device runs its version already, once for each rollout."""
        told = f"{assigned.sha256} {assigned.rollout}"
        update = self._parts.state.update(assigned.model)
        if update is not None and update.manifest == assigned.sha256:
            told_by_update = f"{update.manifest} {update.rollout}"
        else:
            told_by_update = ""
        if assigned.rollout is None or told == told_by_update or self._told(assigned.model, told):
            return
        done = Update(
            model=assigned.model,
            phase=Phase.COMMITTED,
            manifest=assigned.sha256,
            version=assigned.version,
            counter=offer.counter,
            rollout=assigned.rollout,
        )
        self._parts.journal.report(done, Phase.IDLE, {"already": True})

    def _refuse_again(self, assigned: Assigned, offer: Offer) -> None:
        """Tell the server, once for each assignment, that an earlier verdict stands."""
        verdict = self._parts.state.verdict(assigned.model, assigned.sha256)
        if verdict is None or offer.counter <= verdict.counter:
            return
        if self._told(assigned.model, f"{assigned.sha256} {offer.counter}"):
            return
        still = Update(
            model=assigned.model,
            phase=verdict.outcome,
            manifest=assigned.sha256,
            version=assigned.version,
            counter=offer.counter,
            rollout=assigned.rollout,
            reason=f"it was refused before: {verdict.reason}",
        )
        self._parts.journal.report(still, Phase.IDLE, {"repeated": True})

    def _told(self, model: str, text: str) -> bool:
        """Return whether the server was told `text` of `model` last; note it."""
        state, key = self._parts.state, f"told/{model}"
        if state.cell(key) == text.encode():
            return True
        state.set_cell(key, text.encode())
        return False

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
        except (FetchError, StoreError):
            return self._pause_s()
        except sqlite3.Error as error:  # a full or failing disk; serving does not need it
            logger.error("state.db: %s", error)
            return _STORAGE_S

    def _step(self, update: Update) -> float:
        try:
            after = self._do(update)
        except InterruptedWorkError:
            raise
        except OfflineError as error:
            logger.info("%s %s waits: %s", update.model, update.version, error)
            self._wait(update.model)
            return self._pause_s()
        except NoSpaceError as error:
            self.collect()
            after = self._fail(update, f"no room: {error}", progressed=False)
        except FetchError as error:
            after = self._fail(update, str(error), progressed=error.progressed)
        except BundleError as error:
            after = self._fail(update, str(error), progressed=False)
        except (sqlite3.Error, MemoryError):
            raise
        except Exception as error:  # the edge: an update must not end the agent
            logger.exception("%s %s", update.model, update.version)
            after = self._fail(update, f"internal error: {error!r:.200}", progressed=False)
        if after.phase in IN_PROGRESS:
            on_trial = after.phase in (Phase.PROBATION, Phase.SHADOW)
            return _POLL_S if on_trial and after.phase is update.phase else 0.0
        self._finished(after)
        return 0.0

    def _do(self, update: Update) -> Update:
        match update.phase:
            case Phase.FAILED:
                return self._parts.journal.move(update, Phase.OFFERED, "another try")
            case Phase.STAGED:
                return self.service.stage(update)
            case Phase.SHADOW:
                return self.service.shadow(update)
            case Phase.PROBATION:
                return self.service.probation(update)
        return self._preparation.step(update, self.offer or Offer(0))

    def _fail(self, update: Update, reason: str, *, progressed: bool) -> Update:
        """Write down a failure that another try may cure."""
        update = self._parts.state.update(update.model) or update  # as the step left it
        if update.phase in (Phase.PROBATION, Phase.FAILED):
            logger.error("%s %s: %s", update.model, update.version, reason)
            self._wait(update.model)
            return update
        failures = 1 if progressed else update.failures + 1
        return self._parts.journal.move(replace(update, failures=failures), Phase.FAILED, reason)

    def _finished(self, update: Update) -> None:
        if update.phase is Phase.FAILED:
            chance = random.random()  # noqa: S311  # spreads a fleet, hides nothing
            delay_s = retry_delay_s(max(1, update.failures), self._parts.config.retry, chance)
            if delay_s is not None:
                self._waiting[update.model] = _Waiting(time.monotonic() + delay_s, 0)
            return
        self._plan()
        self.collect()

    def _next(self) -> Update | None:
        """Return the update whose turn it is: one on trial before all others."""
        updates = self._parts.state.updates()
        on_trial = [one for one in updates if one.phase in (Phase.PROBATION, Phase.SHADOW)]
        others = [one for one in updates if one.phase in IN_PROGRESS and one not in on_trial]
        failed = [one for one in updates if one.phase is Phase.FAILED and self._may_retry(one)]
        for update in (*on_trial, *others, *failed):
            if self._is_due(update.model):
                return update
        return None

    def _may_retry(self, update: Update) -> bool:
        wanted = self.offer is not None and self.offer.find(update.model, update.manifest)
        return bool(wanted) and update.failures < self._parts.config.retry.attempts

    def _is_due(self, key: str) -> bool:
        waiting = self._waiting.get(key)
        return waiting is None or waiting.due <= time.monotonic()

    def _wait(self, key: str) -> None:
        """Don't try `key` again for a while: longer each time, until something changes."""
        tries = self._waiting[key].tries + 1 if key in self._waiting else 1
        retry = self._parts.config.retry
        chance = random.random()  # noqa: S311  # spreads a fleet, hides nothing
        delay_s = backoff_s(tries, retry.base_s, retry.longest_s, chance)
        self._waiting[key] = _Waiting(time.monotonic() + delay_s, tries)

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

    # -- what is kept ------------------------------------------------------------------------

    def collect(self) -> None:
        """Delete every blob that no slot and no update needs."""
        parts = self._parts
        kept = self._needed()
        for digest in parts.store.digests():
            if digest not in kept:
                parts.store.delete(digest)
        for digest in parts.store.partials():
            if digest not in kept:
                parts.store.discard_partial(digest)

    def _needed(self) -> set[str]:
        state, offer = self._parts.state, self.offer or Offer(0)
        needed: set[str] = set()
        for model in state.models():
            slots = state.slots(model)
            for slot in (slots.active, slots.previous):
                if slot is not None:
                    needed |= {slot.manifest, *slot.files.values()}
            update = state.update(model)
            if update is not None and (update.phase in IN_PROGRESS or self._may_retry(update)):
                needed |= self._needed_by(update, offer)
        return needed

    def _needed_by(self, update: Update, offer: Offer) -> set[str]:
        needed = {update.manifest}
        assigned = offer.find(update.model, update.manifest)
        if assigned is None or not self._parts.store.has(update.manifest):
            return needed
        try:
            files = wants(self._parts.manifest(update.manifest), assigned)
        except BundleError:
            return needed
        for want in files:
            needed.add(want.sha256)
            patches = offer.patches.get(want.sha256, ())
            patch = choose_patch(want, patches, update.moved.refused, self._parts.store.has)
            if patch is not None:
                needed.add(patch.sha256)
        return needed

    def close(self) -> None:
        """End what is in progress so that the next start resumes it."""
        self.service.close()
