"""Keeps what is stored of each device bounded: the newest events and telemetry windows."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from edgec_fleet.db.schema import DeviceEvent, Telemetry

_LOOK_EVERY = 100  # messages of one device


class Timeline:
    """Deletes the oldest rows of a device, now and then."""

    def __init__(self, kept: int) -> None:
        """Keep `kept` events, and as many telemetry rows, of each device."""
        self._kept = kept
        self._since: Counter[str] = Counter()

    def note(self, session: Session, devices: Iterable[str]) -> None:
        """Count one message of each of `devices`, and trim where it is time to."""
        for device in devices:
            self._since[device] += 1
            if self._since[device] >= _LOOK_EVERY:
                del self._since[device]
                self.trim(session, device)

    def trim(self, session: Session, device: str) -> None:
        """Delete all but the newest rows of `device`."""
        for table in (DeviceEvent, Telemetry):
            newest_too_many = session.scalar(
                select(table.id)
                .where(table.device_id == device)
                .order_by(table.id.desc())
                .offset(self._kept)
                .limit(1)
            )
            if newest_too_many is not None:
                old = delete(table).where(table.device_id == device, table.id <= newest_too_many)
                session.execute(old)
