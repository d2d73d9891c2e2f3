"""What is being served, and how one model takes the place of another.

The database says which model shall serve, the host which one does. Towards a new model the
database goes first (a kill in between boots into its probation); away from a bad one the host goes
first (the device must answer rightly even if nothing can be written any more).
"""

import logging
from dataclasses import replace
from typing import Any

from edgec_agent.boot import LOADED_IN, Boot
from edgec_agent.errors import ConfigError, ModelLoadError
from edgec_agent.machine import Judgement, Phase, Probation, judge
from edgec_agent.parts import Parts
from edgec_agent.serving import Serving
from edgec_agent.slots import UNUSABLE, SlotKeeper, deployed_of
from edgec_agent.state import Slots, Update
from edgec_agent.trial import Trial, evidence_of
from edgec_bundle.messages import Deployed

logger = logging.getLogger(__name__)

_DRAIN_S = 30.0


class Service:
    """Executes everything that touches serving: boot, swap, shadow, probation, the way back."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._keeper = SlotKeeper(parts)
        self._trials: dict[str, Trial] = {}

    def expect(self) -> None:
        """Let calls wait for what `boot` will serve, instead of refusing them as unknown."""
        Boot(self._parts, self._keeper).expect()

    def boot(self) -> None:
        """Serve what was served before; see `Boot`."""
        Boot(self._parts, self._keeper).run()

    def mark_healthy(self) -> None:
        """Note that every model that serves has done so for a while."""
        for model in self._parts.host.models():
            self._parts.state.clear_boots(model)

    # -- staged: load and swap ---------------------------------------------------------------

    def stage(self, update: Update) -> Update:
        """Load the candidate, and put it into shadow or probation."""
        manifest = self._parts.manifest(update.manifest)
        deployed = deployed_of(manifest)
        active = self._parts.host.active(update.model)
        if active is not None and not self._keeper.has_room(manifest):
            return self._swap_drained(update, deployed)
        try:
            candidate = self._keeper.load(deployed)
        except ModelLoadError as error:
            failed = replace(update, failures=update.failures + 1)
            return self._parts.journal.move(failed, Phase.FAILED, str(error))
        shadow = self._parts.config.shadow
        if active is None or not shadow.samples:
            return self._swap(update, deployed, candidate)
        update = self._parts.journal.move(update, Phase.SHADOW)
        self._trials[update.model] = Trial(self._parts.host, candidate, active, shadow=True)
        return update

    def _swap(self, update: Update, deployed: Deployed, candidate: Serving) -> Update:
        """Let `candidate` answer from now on; the model it replaces stays as the yardstick."""
        try:
            update = self._write_swap(update, deployed)
        except BaseException:
            self._parts.host.retire(candidate)
            raise
        yardstick = self._parts.host.activate(update.model, candidate)
        self._trials[update.model] = Trial(self._parts.host, candidate, yardstick, shadow=False)
        return update

    def _write_swap(self, update: Update, deployed: Deployed) -> Update:
        state = self._parts.state
        with state.transaction():
            before = state.slots(update.model)
            state.set_slots(update.model, Slots(active=deployed, previous=before.active))
            return self._parts.journal.move(update, Phase.PROBATION)

    def _swap_drained(self, update: Update, deployed: Deployed) -> Update:
        """Without memory for two: free the old model, load the new one. Calls wait meanwhile."""
        parts, model = self._parts, update.model
        logger.warning("%s: no memory for two models, calls wait during the swap", model)
        before = parts.state.slots(model).active
        parts.host.drain(model, _DRAIN_S)
        try:
            candidate = self._keeper.load(deployed)
        except UNUSABLE as error:
            if before is not None:
                parts.host.activate(model, self._keeper.load(before))
            failed = replace(update, failures=update.failures + 1)
            return parts.journal.move(failed, Phase.FAILED, str(error))
        update = self._write_swap(update, deployed)
        parts.host.activate(model, candidate)
        self._trials[model] = Trial(parts.host, candidate, None, shadow=False)
        return update

    # -- shadow and probation ----------------------------------------------------------------

    def shadow(self, update: Update) -> Update:
        """Look at the candidate in shadow; swap, reject, or return `update` as it is."""
        trial = self._trials.get(update.model)
        if trial is None:  # the agent was restarted
            return self._parts.journal.move(update, Phase.STAGED, "the agent was restarted")
        limits = self._parts.config.shadow
        policy = replace(
            self._parts.config.probation, samples=limits.samples, seconds=limits.seconds
        )
        judgement, evidence = self._judged(trial, policy)
        if judgement.stays is None:
            return update
        self._end_trial(update.model)
        if not judgement.stays:
            self._parts.host.retire(trial.candidate)
            return self._parts.journal.move(
                update, Phase.REJECTED, judgement.reason, {"shadow": evidence}
            )
        return self._swap(update, deployed_of(trial.candidate.manifest), trial.candidate)

    def probation(self, update: Update) -> Update:
        """Look at the candidate in probation; commit, roll back, or return `update` as it is."""
        trial = self._trials.get(update.model) or self._resume_trial(update)
        if trial is None:
            return self.roll_back(update, "it is no longer being served", {})
        policy = self._parts.config.probation
        if self._parts.state.slots(update.model).previous is None:
            judgement, evidence = Judgement(True), {"samples": 0, "previous": None}
        else:
            judgement, evidence = self._judged(trial, policy)
        if judgement.stays is None:
            return update
        if judgement.stays:
            return self._commit(update, trial, {"probation": evidence})
        return self.roll_back(update, judgement.reason, {"probation": evidence})

    def _judged(self, trial: Trial, policy: Probation) -> tuple[Judgement, dict[str, Any]]:
        seen, elapsed_s = trial.watched(), trial.elapsed_s
        evidence = evidence_of(seen, policy.minimum_agreement, elapsed_s)
        return judge(seen, elapsed_s, policy), evidence

    def _resume_trial(self, update: Update) -> Trial | None:
        """Begin a probation again that a restart of the agent has ended."""
        parts = self._parts
        candidate = parts.host.active(update.model)
        if candidate is None or candidate.digest != update.manifest:
            return None
        yardstick = None
        previous = parts.state.slots(update.model).previous
        if previous is not None and self._keeper.has_room(self._keeper.manifest(previous)):
            try:
                yardstick = self._keeper.load(previous)
            except UNUSABLE as error:
                logger.warning("%s: no yardstick: %s", update.model, error)
        trial = Trial(parts.host, candidate, yardstick, shadow=False)
        self._trials[update.model] = trial
        return trial

    def _commit(self, update: Update, trial: Trial, evidence: dict[str, Any]) -> Update:
        state = self._parts.state
        with state.transaction():
            state.raise_floor(update.model, trial.candidate.manifest.release)
            state.forget(update.model, update.manifest)
            done = replace(update, restarts=0, failures=0)
            update = self._parts.journal.move(done, Phase.COMMITTED, evidence=evidence)
        self._end_trial(update.model)
        if trial.yardstick is not None:
            self._parts.host.retire(trial.yardstick)
        return update

    # -- the way back ------------------------------------------------------------------------

    def roll_back(self, update: Update, reason: str, evidence: dict[str, Any]) -> Update:
        """End a probation: the previous model answers again."""
        parts, model = self._parts, update.model
        trial = self._trials.get(model)
        slots = parts.state.slots(model)
        if trial is not None and trial.yardstick is not None:
            self._end_trial(model)
            bad = parts.host.activate(model, trial.yardstick)
            if bad is not None:
                parts.host.retire(bad)
        else:
            self._end_trial(model)
            try:
                self._serve_instead(model, slots.previous)
            except UNUSABLE as error:
                return self._no_way_back(update, slots, f"{reason}; {error}", evidence)
        return self._keeper.write_return(model, slots, reason, evidence) or update

    def _no_way_back(
        self, update: Update, slots: Slots, reason: str, evidence: dict[str, Any]
    ) -> Update:
        """Go on with a bad model, since the previous one can't be loaded and none is worse."""
        active = self._parts.host.active(update.model)
        if active is None and slots.active is not None:
            self._parts.host.activate(update.model, self._keeper.load(slots.active))
        state = self._parts.state
        exhausted = replace(update, failures=self._parts.config.retry.attempts)
        with state.transaction():
            state.set_slots(update.model, Slots(active=slots.active))
            return self._parts.journal.move(exhausted, Phase.FAILED, reason, evidence)

    def _serve_instead(self, model: str, deployed: Deployed | None) -> None:
        """Serve `deployed` in place of what serves now; None: nothing."""
        host = self._parts.host
        if deployed is None:
            bad = host.remove(model)
        else:
            if not self._keeper.has_room(self._keeper.manifest(deployed)):
                host.drain(model, _DRAIN_S)
            bad = host.activate(model, self._keeper.load(deployed))
        if bad is not None:
            host.retire(bad)

    def return_by_hand(self, model: str) -> str:
        """Serve the previous model because a person at the device says so; return its version.

        Raises:
            ConfigError: there is none, or it can't be loaded.
        """
        slots = self._parts.state.slots(model)
        if slots.previous is None or slots.active is None:
            raise ConfigError(f"there is no previous version of {model} on this device")
        update = self._parts.state.update(model)
        reason = "rolled back by a person at the device"
        if update is not None and update.phase is Phase.PROBATION:
            self.roll_back(update, reason, {"by_hand": True})
            return slots.previous.version
        try:
            self._serve_instead(model, slots.previous)
        except UNUSABLE as error:
            raise ConfigError(f"the previous version can't be served: {error}") from error
        self._keeper.write_return(model, slots, reason, {"by_hand": True})
        return slots.previous.version

    def abandon(self, model: str) -> None:
        """Let go of a candidate in shadow that is no longer wanted."""
        trial = self._trials.get(model)
        if trial is not None:
            self._end_trial(model)
            self._parts.host.retire(trial.candidate)

    def _end_trial(self, model: str) -> None:
        trial = self._trials.pop(model, None)
        if trial is not None:
            trial.close()

    def close(self) -> None:
        """End every comparison; a clean stop is not held against a candidate."""
        for model in tuple(self._trials):
            self._end_trial(model)
        state = self._parts.state
        for update in state.updates():
            if update.restarts and update.phase in LOADED_IN:
                state.save_update(replace(update, restarts=update.restarts - 1))
        self.mark_healthy()
