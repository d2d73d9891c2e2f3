"""Takes in what devices say. Every message is idempotent: brokers deliver some of them twice.

A message is parsed before the database is touched, and believed only as far as its topic goes:
the broker lets a device write under its own id alone, and here the id must be enrolled, not
revoked, and of the tenant that the topic names.
"""

import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_bundle.errors import MessageError
from edgec_bundle.messages import (
    KINDS,
    DeviceTopic,
    Event,
    Hello,
    Message,
    Request,
    State,
    Telemetry,
    parse_rfc3339,
    parse_topic,
)
from edgec_fleet.db.schema import Device, DeviceEvent, DeviceUpdate, Rollout, Variant, utcnow
from edgec_fleet.db.schema import Telemetry as TelemetryRow
from edgec_fleet.rollout import ledger
from edgec_fleet.rollout.decide import OPEN, reported

logger = logging.getLogger(__name__)

CONTACT_EVERY = timedelta(seconds=5)  # how exact `last_contact_at` is
_CLOCK_SLACK = timedelta(days=1)  # a device's times are kept only if they are not absurd


@dataclass(frozen=True, slots=True)
class Incoming:
    """A well-formed message, and whose topic it came on."""

    tenant: str
    device: str
    message: Message


def parse(topic: str, payload: bytes) -> Incoming:
    """Return the message. Raises MessageError: not one that devices send."""
    parts = parse_topic(topic)
    if not isinstance(parts, DeviceTopic) or parts.direction != "up":
        raise MessageError(f"not a topic that devices publish on: {topic[:200]!r}")
    return Incoming(parts.tenant, parts.device, KINDS[parts.kind].from_bytes(payload))


def sender(session: Session, incoming: Incoming) -> Device | None:
    """Return the enrolled, unrevoked device that may send this message, its row locked."""
    device = session.get(Device, incoming.device, with_for_update=True, populate_existing=True)
    if device is None or device.tenant != incoming.tenant or device.revoked_at is not None:
        return None
    return device


def take(session: Session, incoming: Incoming) -> bool:
    """Write the message down. Returns False if it is not from a device that may send it."""
    device = sender(session, incoming)
    if device is None:
        return False
    now = utcnow()
    match incoming.message:
        case Hello() as hello:
            _hello(session, device, hello, now)
        case State() as state:
            _state(session, device, state, now)
        case Event() as event:
            _event(session, device, event, now)
        case Telemetry() as telemetry:
            _telemetry(session, device, telemetry, now)
        case Request():
            pass
    is_will = isinstance(incoming.message, State) and not incoming.message.online
    stale = device.last_contact_at is None or now - device.last_contact_at >= CONTACT_EVERY
    if stale and not is_will:
        device.last_contact_at = now
    session.flush()
    return True


def _hello(session: Session, device: Device, hello: Hello, now: datetime) -> None:
    if _seen(session, device, hello.id):
        return
    rebooted = device.boot_id != hello.boot_id
    device.hello, device.hello_at, device.boot_id = _json(hello), now, hello.boot_id
    if hello.profiles:
        device.profiles = list(hello.profiles)
    if rebooted:
        _note(session, device, "hello", now, hello.id, hello.at, hello.boot_id)
    _set_online(session, device, True, now)


def _state(session: Session, device: Device, state: State, now: datetime) -> None:
    if not state.online:
        # A last will: it was written at connect, so what it says of models is old; and it may
        # come after the hello of the next boot.
        if device.boot_id in (None, state.boot_id):
            _set_online(session, device, False, now)
        return
    device.models, device.state_at = _json(state)["models"], now
    device.boot_id = state.boot_id
    _set_online(session, device, True, now)


def _event(session: Session, device: Device, event: Event, now: datetime) -> None:
    if _seen(session, device, event.id):
        return
    session.add(
        DeviceEvent(
            tenant=device.tenant,
            device_id=device.id,
            at=now,
            reported_at=_believable(event.at, now),
            kind="event",
            message_id=event.id,
            boot_id=event.boot_id,
            seq=event.seq,
            model=event.model,
            manifest_sha256=event.manifest,
            counter=event.assignment,
            rollout_id=event.rollout if event.rollout and len(event.rollout) <= 32 else None,
            phase=event.phase,
            previous_phase=event.previous_phase,
            reason=event.reason,
            evidence=dict(event.evidence),
        )
    )
    if event.rollout is not None:
        _progress(session, device, event, now)


def _progress(session: Session, device: Device, event: Event, now: datetime) -> None:
    """Move the device on in the rollout that its event names."""
    found = session.execute(
        select(DeviceUpdate, Rollout, Variant.manifest_sha256)
        .join(Rollout, Rollout.id == DeviceUpdate.rollout_id)
        .outerjoin(Variant, Variant.id == DeviceUpdate.variant_id)
        .where(
            DeviceUpdate.rollout_id == event.rollout,
            DeviceUpdate.device_id == device.id,
            Rollout.model == event.model,
        )
        .with_for_update(of=DeviceUpdate)
        .execution_options(populate_existing=True)
    ).first()
    if found is None or found[0].counter is None or event.assignment < found[0].counter:
        return  # of another assignment than the one that counts
    update, rollout, manifest = found
    if event.manifest == manifest:
        state = reported(update.state, event.phase)
    else:  # told to go back: the release that was there before is committed again
        went_back = rollout.state == "aborted" and event.phase == "committed"
        state = "rolled_back" if went_back and update.state == "committed" else None
    if state is not None:
        _move(session, rollout, update, event, state, now)


def _move(
    session: Session,
    rollout: Rollout,
    update: DeviceUpdate,
    event: Event,
    state: str,
    now: datetime,
) -> None:
    if state != update.state:
        log = ledger.Log(session, rollout)
        log.add(
            "device",
            update.state,
            state,
            event.reason or f"the device reports {event.phase.replace('_', ' ')}",
            group_id=update.group_id,
            device_id=update.device_id,
            evidence=dict(event.evidence),
            at=now,
        )
        log.flush()
    update.state, update.phase, update.since = state, event.phase, now
    update.reason = event.reason
    update.evidence = {**(update.evidence or {}), **event.evidence}
    update.finished_at = None if state in OPEN else now
    match event.evidence.get("transfer"):
        case {"bytes": int(sent), "full_bytes": int(full)} if sent >= 0 and full >= 0:
            update.transferred_bytes, update.full_bytes = sent, full


def _telemetry(session: Session, device: Device, telemetry: Telemetry, now: datetime) -> None:
    start, end = parse_rfc3339(telemetry.window.start), parse_rfc3339(telemetry.window.end)
    plain = _json(telemetry)
    for name, model in telemetry.models.items():
        known = select(TelemetryRow.id).where(
            TelemetryRow.device_id == device.id,
            TelemetryRow.model == name,
            TelemetryRow.manifest_sha256 == model.manifest,
            TelemetryRow.window_start == start,
        )
        if session.scalar(known) is None:
            session.add(
                TelemetryRow(
                    tenant=device.tenant,
                    device_id=device.id,
                    model=name,
                    manifest_sha256=model.manifest,
                    window_start=start,
                    window_end=end,
                    received_at=now,
                    requests=model.requests,
                    failed=model.failed,
                    latency_ms=plain["models"][name]["latency_ms"] or {},
                    histograms=plain["models"][name]["histograms"],
                    host=plain["host"],
                )
            )


def _set_online(session: Session, device: Device, online: bool, now: datetime) -> None:
    if device.online != online:
        device.online = online
        _note(session, device, "online" if online else "offline", now)


def _note(
    session: Session,
    device: Device,
    kind: str,
    now: datetime,
    message_id: str | None = None,
    reported_at: str | None = None,
    boot_id: str | None = None,
) -> None:
    session.add(
        DeviceEvent(
            tenant=device.tenant,
            device_id=device.id,
            at=now,
            reported_at=_believable(reported_at, now) if reported_at else None,
            kind=kind,
            message_id=message_id,
            boot_id=boot_id,
        )
    )


def _seen(session: Session, device: Device, message_id: str) -> bool:
    known = select(DeviceEvent.id).where(
        DeviceEvent.device_id == device.id, DeviceEvent.message_id == message_id
    )
    return session.scalar(known) is not None


def _json(message: Message) -> dict[str, Any]:
    """Return the message as plain JSON, the way it came."""
    found: dict[str, Any] = json.loads(message.to_bytes())
    return found


def _believable(at: str, now: datetime) -> datetime | None:
    """Return the device's own time unless its clock is plainly wrong (1970 after a power cut)."""
    said = parse_rfc3339(at)
    return said if said.year >= 2020 and said - now < _CLOCK_SLACK else None
