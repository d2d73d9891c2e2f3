"""Phase changes: written down together with the event that reports them, or not at all."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from edgec_agent.machine import Phase, Verdict, move
from edgec_agent.outbox import Outbox
from edgec_agent.state import AgentState, Update
from edgec_bundle.errors import MessageError
from edgec_bundle.messages import Event, rfc3339

logger = logging.getLogger(__name__)

_REASON_CHARACTERS = 500


class Journal:
    """Writes what becomes of updates; `changed` is told after each entry."""

    def __init__(
        self,
        state: AgentState,
        outbox: Outbox,
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._state = state
        self._outbox = outbox
        self._now = now
        self._changed = changed

    def move(
        self,
        update: Update,
        to: Phase,
        reason: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Update:
        """Bring `update` to phase `to`; return it as it is now. Raises RuntimeError if illegal.

        Other fields of `update` are saved as they are. For a final refusal the verdict is kept.
        """
        reason = plain_text(reason)
        moved = replace(update, phase=move(update.phase, to), reason=reason)
        with self._state.transaction():
            self._state.save_update(moved)
            if to in (Phase.REJECTED, Phase.ROLLED_BACK):
                verdict = Verdict(to, reason or "", update.counter, update.rollout)
                self._state.remember(update.model, update.manifest, verdict)
            self.report(moved, update.phase, evidence)
        logger.info(
            "%s %s: %s -> %s%s", update.model, update.version, update.phase, to, _because(reason)
        )
        return moved

    def begin(self, update: Update, previous: Phase) -> Update:
        """Save a new update, whose phase is OFFERED, after one that ended in `previous`."""
        move(previous, update.phase)
        with self._state.transaction():
            self._state.save_update(update)
            self.report(update, previous)
        logger.info("%s %s: %s", update.model, update.version, update.phase)
        return update

    def report(
        self, update: Update, previous: Phase, evidence: Mapping[str, Any] | None = None
    ) -> None:
        """Tell the server that `update` is in its phase, and why."""
        boot_id, seq = self._state.next_seq()
        event = Event(
            at=rfc3339(self._now()),
            boot_id=boot_id,
            seq=seq,
            model=update.model,
            manifest=update.manifest,
            assignment=update.counter,
            rollout=update.rollout,
            phase=update.phase.value,
            previous_phase=previous.value,
            reason=plain_text(update.reason),
            evidence=dict(evidence or {}),
        )
        try:
            self._outbox.put(event)
        except MessageError as error:
            logger.warning("evidence was left out: %s", error)
            self._outbox.put(replace(event, evidence={}))
        self._changed()


def plain_text(text: str | None) -> str | None:
    """Return `text` as one short line that every reader can take."""
    if text is None:
        return None
    clean = " ".join(text.replace("\0", " ").split())
    clean = clean.encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= _REASON_CHARACTERS else clean[: _REASON_CHARACTERS - 3] + "..."


def _because(reason: str | None) -> str:
    return f" ({reason})" if reason else ""
