"""What waits for the server while it cannot be reached: bounded, oldest aggregates merged first.

Events are facts and are kept longest; telemetry is aggregates, and two windows make one.
"""

from dataclasses import dataclass

from edgec_agent.config import Outbox as Bounds
from edgec_agent.state import AgentState
from edgec_agent.telemetry import merge
from edgec_bundle.errors import MessageError
from edgec_bundle.messages import Event, Telemetry


@dataclass(frozen=True, slots=True)
class Letter:
    """One message on its way: `kind` is "event" or "telemetry"."""

    id: int
    kind: str
    payload: bytes


class Outbox:
    """The outbox in `state`. What a method has returned from is on the disk."""

    def __init__(self, state: AgentState, bounds: Bounds) -> None:
        self._state = state
        self._bounds = bounds

    def put(self, message: Event | Telemetry) -> None:
        """Add `message`; make room when a bound is passed."""
        with self._state.transaction():
            self._state.rows(
                "INSERT INTO outbox (kind, payload) VALUES (?, ?)", message.KIND, message.to_bytes()
            )
            self._keep_bounds()

    def oldest(self, limit: int, after: int = 0) -> tuple[Letter, ...]:
        """Return up to `limit` messages with an id above `after`, in the order they were put."""
        rows = self._state.rows(
            "SELECT id, kind, payload FROM outbox WHERE id > ? ORDER BY id LIMIT ?", after, limit
        )
        return tuple(Letter(*row) for row in rows)

    def delete(self, letter_id: int) -> None:
        """Forget a message that has arrived."""
        self._state.rows("DELETE FROM outbox WHERE id = ?", letter_id)

    def count(self) -> int:
        """Return how many messages wait."""
        ((count,),) = self._state.rows("SELECT count(*) FROM outbox")
        return int(count)

    @property
    def dropped(self) -> int:
        """How many messages were given up for want of room, ever."""
        return int(self._state.cell("dropped") or b"0")

    def _keep_bounds(self) -> None:
        while self._count("telemetry") > self._bounds.telemetry:
            self._merge_or_drop_oldest()
        while self._count("event") > self._bounds.events:
            self._drop_oldest("event")
        while self._bytes() > self._bounds.bytes and self.count() > 1:
            if self._count("telemetry"):
                self._merge_or_drop_oldest()
            else:
                self._drop_oldest("event")

    def _merge_or_drop_oldest(self) -> None:
        """Make one of the two oldest windows; drop the oldest if that can't be."""
        rows = self._state.rows(
            "SELECT id, payload FROM outbox WHERE kind = 'telemetry' ORDER BY id LIMIT 2"
        )
        if len(rows) < 2:
            self._drop_oldest("telemetry")
            return
        (older_id, older), (newer_id, newer) = rows
        try:
            merged = merge(Telemetry.from_bytes(older), Telemetry.from_bytes(newer)).to_bytes()
        except MessageError:
            merged = None
        if merged is None or len(merged) >= len(older) + len(newer):
            self._drop_oldest("telemetry")
            return
        self._state.rows("UPDATE outbox SET payload = ? WHERE id = ?", merged, newer_id)
        self.delete(older_id)

    def _drop_oldest(self, kind: str) -> None:
        self._state.rows(
            "DELETE FROM outbox WHERE id = (SELECT min(id) FROM outbox WHERE kind = ?)", kind
        )
        self._state.set_cell("dropped", str(self.dropped + 1).encode())

    def _count(self, kind: str) -> int:
        ((count,),) = self._state.rows("SELECT count(*) FROM outbox WHERE kind = ?", kind)
        return int(count)

    def _bytes(self) -> int:
        ((size,),) = self._state.rows("SELECT coalesce(sum(length(payload)), 0) FROM outbox")
        return int(size)
