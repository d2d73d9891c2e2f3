"""The slots: where models are kept, loaded from, and returned to."""

from dataclasses import replace
from typing import Any

from edgec_agent import memory
from edgec_agent.errors import ModelLoadError
from edgec_agent.machine import Phase, Verdict
from edgec_agent.offer import Offer
from edgec_agent.parts import Parts
from edgec_agent.serving import Serving
from edgec_agent.state import Slots, Update
from edgec_bundle.errors import BundleError
from edgec_bundle.manifest import Manifest
from edgec_bundle.messages import Deployed

UNUSABLE = (ModelLoadError, BundleError)  # what loading from a slot may raise
_LOADED = 2  # a loaded model takes about this many times its file


class SlotKeeper:
    """Loads what slots name, and writes down a way back."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def load(self, deployed: Deployed) -> Serving:
        """Return a model from its slot, every byte verified. Raises ModelLoadError, BundleError."""
        return self._parts.host.load(self.manifest(deployed), lambda r: self.read(deployed, r))

    def manifest(self, deployed: Deployed) -> Manifest:
        """Return the manifest of a slot. Raises BundleError."""
        return self._parts.manifest(deployed.manifest)

    def read(self, deployed: Deployed, role: str) -> bytes:
        """Return a file of a slot, verified. Raises StoreError."""
        return self._parts.store.read(deployed.files[role])

    def has_room(self, manifest: Manifest) -> bool:
        """Return whether `manifest`'s model can be loaded beside all others."""
        available = memory.available_bytes()
        wanted = manifest.entry("model").bytes * _LOADED + self._parts.config.memory_reserve_bytes
        return available is None or available >= wanted

    def write_return(
        self, model: str, slots: Slots, reason: str, evidence: dict[str, Any]
    ) -> Update | None:
        """Write down that the previous model serves again, and don't try the other one again."""
        if slots.active is None:
            return None
        state = self._parts.state
        with state.transaction():
            state.set_slots(model, Slots(active=slots.previous))
            state.clear_boots(model)
            update = state.update(model)
            if (
                update is not None
                and update.manifest == slots.active.manifest
                and update.phase in (Phase.PROBATION, Phase.COMMITTED)
            ):
                return self._parts.journal.move(update, Phase.ROLLED_BACK, reason, evidence)
            # The newest update is of another version: leave it as it is.
            gone = replace(self._past(model, slots.active), phase=Phase.ROLLED_BACK, reason=reason)
            verdict = Verdict(Phase.ROLLED_BACK, reason, gone.counter, gone.rollout)
            state.remember(model, slots.active.manifest, verdict)
            self._parts.journal.report(gone, Phase.COMMITTED, evidence)
            return update

    def _past(self, model: str, active: Deployed) -> Update:
        """Return the update that once brought `active`, as if the standing assignment had."""
        kept = self._parts.state.cell("offer")
        offer = Offer(0) if kept is None else Offer.from_bytes(kept)
        rollout = next((one.rollout for one in offer.assigned if one.model == model), None)
        return Update(
            model, Phase.COMMITTED, active.manifest, active.version, offer.counter, rollout
        )

    def past_update(self, model: str, active: Deployed) -> Update:
        """Return the update that brought `active`, as far as it is still known."""
        update = self._parts.state.update(model)
        if update is not None and update.manifest == active.manifest:
            return update
        return self._past(model, active)


def deployed_of(manifest: Manifest) -> Deployed:
    """Return how a slot names `manifest`'s files."""
    return Deployed(
        manifest=manifest.digest,
        version=manifest.version,
        release=manifest.release,
        files={entry.role: entry.sha256 for entry in manifest.shipped()},
    )
