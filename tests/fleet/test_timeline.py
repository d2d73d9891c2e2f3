"""What is kept of each device: the newest, and not more than is set."""

from datetime import UTC, datetime, timedelta

import pytest
from mqtt_clients import enrol
from sqlalchemy import func, select

from edgec_fleet.db.schema import DeviceEvent, Telemetry, utcnow
from edgec_fleet.gateway.timeline import Timeline

KEPT = 50


@pytest.fixture
def fill(server, tmp_path):
    """Return a function that gives a device `count` events and telemetry windows."""

    def fill(name, count):
        enrol(server, tmp_path / "ids", name)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        with server.db.write() as session:
            for number in range(count):
                session.add(
                    DeviceEvent(
                        tenant="default", device_id=name, at=utcnow(), kind="event", seq=number
                    )
                )
                session.add(
                    Telemetry(
                        tenant="default",
                        device_id=name,
                        model="digits",
                        manifest_sha256="ab" * 32,
                        window_start=start + timedelta(minutes=number),
                        window_end=start + timedelta(minutes=number + 1),
                        received_at=utcnow(),
                        requests=1,
                        failed=0,
                        latency_ms={},
                        histograms={},
                        host={},
                    )
                )

    return fill


def test_the_oldest_of_a_talkative_device_go_and_nobody_elses(server, fill):
    fill("talkative", 130)
    fill("modest", 20)

    timeline = Timeline(KEPT)
    with server.db.write() as session:
        timeline.note(session, ["talkative", "modest"] * 100)

    with server.db.read() as session:
        kept = session.scalars(
            select(DeviceEvent.seq).where(DeviceEvent.device_id == "talkative")
        ).all()
        windows = session.scalar(
            select(func.count()).select_from(Telemetry).where(Telemetry.device_id == "talkative")
        )
        others = session.scalar(
            select(func.count()).select_from(DeviceEvent).where(DeviceEvent.device_id == "modest")
        )
    assert sorted(kept) == list(range(80, 130))
    assert (windows, others) == (KEPT, 20)
