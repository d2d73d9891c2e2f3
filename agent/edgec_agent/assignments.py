"""Assignments: proven, written down, and turned into updates.

What a device shall run is decided by `verify_offer` (may it be believed?) and `machine.plan` (what
does it mean here?); this module fetches what the first needs and writes down what the second says.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from edgec_agent.download import BlockSource
from edgec_agent.identity import Identity
from edgec_agent.machine import IN_PROGRESS, Phase, Plan, Standing, Wanted, plan
from edgec_agent.offer import Assigned, Offer, offer_of
from edgec_agent.parts import Parts
from edgec_agent.service import Service
from edgec_agent.state import Update
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import MessageError
from edgec_bundle.messages import Desired
from edgec_bundle.trust import MAX_SET_BYTES, TrustState, verify_offer


class Clock(Protocol):
    """The local clock, which may be wrong."""

    def __call__(self) -> datetime:
        """Return the time, with a time zone."""


class Assignments:
    """Takes assignments in. Used from the updater's thread."""

    def __init__(
        self, parts: Parts, service: Service, identity: Identity, root: bytes, now: Clock
    ) -> None:
        """Prepare.

        Args:
            parts: what it works with.
            service: for the way back that an assignment may ask for.
            identity: who this device is.
            root: the TUF root that was pinned at enrolment.
            now: the local clock.
        """
        self._parts = parts
        self._service = service
        self._identity = identity
        self._root = root
        self._now = now

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

    def accept(self, payload: bytes, sources: Sequence[BlockSource] | None = None) -> Offer:
        """Verify a message `desired`, write down what it asks for, and return that.

        Args:
            payload: the message, from whomever.
            sources: for the metadata; None: the server.

        Raises:
            MessageError: not a message.
            TrustError: the proof is missing or wrong; nothing changes.
            FetchError, StoreError: the metadata can't be fetched or kept now.
        """
        state, digest = self._parts.state, sha256_hex(payload).encode()
        accepted = self.offer
        if accepted is not None and state.cell("accepted") == digest:
            return accepted  # retained: it comes again with every connection
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
        with state.transaction():
            state.set_cell("trust", trust.to_bytes())
            state.set_cell("offer", offer.to_bytes())
            state.set_cell("accepted", digest)
            state.delete_cell("refused")
        return offer

    def report_refused(self, payload: bytes, reason: str) -> None:
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

    def plan(self) -> None:
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
                self._service.roll_back(update, reason, {})
            case Plan.REFUSE:
                self._refuse_again(assigned, offer)

    def _begin(self, assigned: Assigned, offer: Offer, before: Update | None) -> None:
        if before is not None and before.phase in IN_PROGRESS:
            self._drop(before, f"version {assigned.version} was assigned instead")
            before = replace(before, phase=Phase.IDLE)
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
        self._service.abandon(update.model)
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
