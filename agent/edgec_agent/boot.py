"""Serving what was served before: the first thing that an agent does.

A model that can't be served any more gives way to its predecessor; one that seems to kill the
agent is tried in a child process first.
"""

import logging
import sqlite3
from dataclasses import replace

from edgec_agent.errors import ModelLoadError
from edgec_agent.machine import Phase
from edgec_agent.parts import Parts
from edgec_agent.slots import UNUSABLE, SlotKeeper
from edgec_bundle.messages import Deployed
from edgec_runtime.selftest import run_selftest

logger = logging.getLogger(__name__)

LOADED_IN = (Phase.STAGED, Phase.SHADOW, Phase.PROBATION)  # phases that load the candidate here


class Boot:
    """Puts the active slots into service."""

    def __init__(self, parts: Parts, keeper: SlotKeeper) -> None:
        self._parts = parts
        self._keeper = keeper

    def expect(self) -> dict[str, Deployed]:
        """Let calls wait for the models that `run` will serve; return these."""
        models = {name: self._parts.state.slots(name) for name in self._parts.state.models()}
        coming = {name: slots.active for name, slots in models.items() if slots.active}
        for model in coming:
            self._parts.host.expect(model)
        return coming

    def run(self) -> None:
        """Serve what was served before; a model that can't be is replaced by its predecessor."""
        for model, active in self.expect().items():
            try:
                self._boot(model, active)
            except sqlite3.Error as error:
                logger.error("%s: state.db: %s", model, error)
                self._parts.host.remove(model)

    def _boot(self, model: str, active: Deployed) -> None:
        parts = self._parts
        boots, reason = self._count(model)
        if reason is not None:
            self._fall_back(model, reason)
            return
        try:
            if boots > parts.config.boots:
                self._try_aside(active)
            serving = self._keeper.load(active)
        except UNUSABLE as error:
            self._fall_back(model, f"can't be served any more: {error}")
            return
        parts.host.activate(model, serving)
        logger.info("serving %s %s", model, active.version)

    def _count(self, model: str) -> tuple[int, str | None]:
        """Count this start; return how often in a row it was, and why a candidate must go."""
        try:
            return self._parts.state.count_boot(model), self._restarted_too_often(model)
        except sqlite3.Error as error:  # a full disk is no reason not to serve
            logger.error("%s: this start could not be counted: %s", model, error)
            return 0, None

    def _restarted_too_often(self, model: str) -> str | None:
        """Count this start if a candidate was loaded before it; return why it must go, or None."""
        parts = self._parts
        update = parts.state.update(model)
        if update is None or update.phase not in LOADED_IN:
            return None
        update = replace(update, restarts=update.restarts + 1)
        parts.state.save_update(update)
        if update.restarts <= parts.config.probation.restarts:
            return None
        reason = f"the agent died {update.restarts} times with it loaded"
        if update.phase is Phase.PROBATION:
            return reason
        parts.journal.move(update, Phase.REJECTED, reason)
        return None

    def _try_aside(self, deployed: Deployed) -> None:
        """Run a model in a child process, after too many starts that ended early.

        Power that flickers leaves the model innocent; one that kills its process must not be
        loaded here again. Raises ModelLoadError.
        """
        manifest, testing = self._keeper.manifest(deployed), self._parts.config.testing
        result = run_selftest(
            manifest,
            {role: self._keeper.read(deployed, role) for role in deployed.files},
            launcher_prefix=testing.launcher,
            timeout_s=testing.timeout_s,
            threads=self._parts.config.threads,
        )
        if result.error is not None:
            raise ModelLoadError(f"{manifest.model} {manifest.version}: {result.error}")
        self._parts.state.clear_boots(manifest.model)

    def _fall_back(self, model: str, reason: str) -> None:
        """Serve the previous model in place of the active one, which can't be loaded."""
        parts = self._parts
        slots = parts.state.slots(model)
        if slots.active is None:
            return
        logger.error("%s %s %s", model, slots.active.version, reason)
        if slots.previous is not None:
            try:
                parts.host.activate(model, self._keeper.load(slots.previous))
                self._keeper.write_return(model, slots, reason, {"fallback": True})
                return
            except UNUSABLE as error:
                logger.error("%s %s can't be served either: %s", model, slots.previous, error)
                reason = f"{reason}; nor can the previous model: {error}"
        self._note_lost(model, slots.active, reason)

    def _note_lost(self, model: str, active: Deployed, reason: str) -> None:
        """Report that `model` is not served at all; the slots stay, the next start tries again."""
        self._parts.host.remove(model)
        update = self._keeper.past_update(model, active)
        self._parts.state.clear_boots(model)
        self._parts.journal.report(
            replace(update, phase=Phase.FAILED, reason=reason), update.phase, {"serving": False}
        )
