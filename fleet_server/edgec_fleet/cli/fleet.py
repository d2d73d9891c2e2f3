"""device, rollout: what runs where, and what is on its way."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from edgec_fleet import devices, enrolment, rollouts
from edgec_fleet.api import rollout_schemas, schemas
from edgec_fleet.audit import Actor
from edgec_fleet.cli.output import Output, opened, table
from edgec_fleet.cli.people import tag
from edgec_fleet.db.columns import attributes
from edgec_fleet.db.schema import Rollout
from edgec_fleet.errors import RefusedError
from edgec_fleet.rollout import control
from edgec_fleet.rollout.spec import PRESETS

Move = Callable[[Session, Rollout, Actor, argparse.Namespace], None]


def add_commands(commands: Any) -> None:
    """Add this module's commands to the parser."""
    _add_device(commands.group("device", "devices", "list --dir fleet"))
    _add_rollout(commands.group("rollout", "rollouts", "list --dir fleet"))


def _add_device(device: Any) -> None:
    listed = device.add("list", _list_devices, "list devices", "--dir fleet --tag site=berlin")
    listed.add_argument("--online", action="store_true", help="only those that are connected")
    listed.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE")
    listed.add_argument("--after", metavar="ID", help="go on after this device")
    listed.add_argument("--limit", type=int, default=100, help="how many at most (100)")
    shown = device.add("show", _show_device, "show a device and its timeline", "cam-1 --dir fleet")
    shown.add_argument("device")
    tags = device.add("tag", _tag_device, "replace a device's tags", "cam-1 site=berlin")
    tags.add_argument("device")
    tags.add_argument("tag", nargs="*", metavar="NAME=VALUE")
    revoke = device.add("revoke", _revoke_device, "shut a device out for good", "cam-1")
    revoke.add_argument("device")
    revoke.add_argument("--reason", default="revoked by an operator")


def _add_rollout(rollout: Any) -> None:
    create = rollout.add(
        "create", _create, "bring a release to devices, group by group", "digits 1.1.0"
    )
    create.add_argument("model")
    create.add_argument("version")
    create.add_argument("--strategy", choices=tuple(PRESETS), default="canary")
    create.add_argument("--groups", type=Path, metavar="FILE", help="JSON list of groups")
    create.add_argument("--rate", type=float, metavar="N", help="devices told per minute at most")
    listed = rollout.add("list", _list, "list rollouts, the newest first", "--dir fleet")
    listed.add_argument("--model")
    rollout.add("show", _show, "show groups, devices and log", "ID").add_argument("id")
    for name, move, text in (
        ("pause", _pause, "tell no further device; those that were told go on"),
        ("resume", _resume, "go on, accepting the failures so far"),
        ("next", _next, "start the next group although this one has not passed"),
        ("abort", _abort, "end it: queued devices are never told"),
    ):
        command = rollout.add(name, _moved, text, "ID --reason 'too slow' --dir fleet")
        command.add_argument("id")
        command.add_argument("--reason", default="", help="why, for the log")
        command.set_defaults(move=move)
    command.add_argument("--roll-back", action="store_true", help="and tell the others to go back")


def _list_devices(given: argparse.Namespace) -> Output:
    if not 0 < given.limit <= 10_000:
        raise RefusedError("expected a --limit from 1 to 10000")
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        page = devices.list_devices(
            session,
            tenant,
            online=True if given.online else None,
            tags=dict(tag(item) for item in given.tag),
            after=given.after,
            limit=given.limit,
        )
        rows = [
            (d.id, d.online, d.profiles, running(d.models), d.tags, d.last_contact_at)
            for d in page.devices
        ]
        data = schemas.Devices().dump(page)
    lines = table(("device", "online", "profiles", "runs", "tags", "last contact"), rows)
    more = [f"({page.total} in all; go on with --after {page.next})"] if page.next else []
    return Output(data, [*lines, *more])


def running(models: dict[str, Any]) -> list[str]:
    """Return "model version" for each model that the device reported as active."""
    return [
        f"{name} {state['active'].get('version')}"
        for name, state in sorted(models.items())
        if isinstance(state, dict) and state.get("active")
    ]


def _show_device(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        row = enrolment.get_device(session, tenant, given.device)
        events = devices.timeline(session, row)
        rows = [(e.at, e.kind, e.model, e.phase, e.reason) for e in reversed(events)]
        data = schemas.DeviceWithEvents().dump({**attributes(row), "events": events})
        state = "revoked" if row.revoked_at else "online" if row.online else "offline"
        head = f"{row.id}: {state}, runs {', '.join(running(row.models)) or 'nothing yet'}"
    return Output(data, [head, *table(("at", "kind", "model", "phase", "reason"), rows)])


def _tag_device(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        row = enrolment.get_device(session, tenant, given.device)
        devices.set_tags(session, row, dict(tag(item) for item in given.tag), by)
        return Output(schemas.Device().dump(row), [f"{row.id} has {len(row.tags)} tags."])


def _revoke_device(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        row = enrolment.get_device(session, tenant, given.device)
        enrolment.revoke(session, row, given.reason, by)
        return Output(schemas.Device().dump(row), [f"{row.id} is revoked."])


def _create(given: argparse.Namespace) -> Output:
    order: dict[str, Any] = {
        "model": given.model,
        "version": given.version,
        "strategy": given.strategy,
        "rate_per_minute": given.rate,
    }
    if given.groups is not None:
        try:
            order["groups"] = json.loads(given.groups.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RefusedError(f"{given.groups} is not JSON: {error}") from error
    with opened(given) as (server, tenant, by), server.db.write() as session:
        return _described(session, control.create(session, tenant, order, by))


def _list(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        found = rollouts.list_rollouts(session, tenant, model=given.model)
        rows = [(r.id, r.model, r.version, r.strategy, r.state, r.reason) for r in found]
        data = rollout_schemas.RolloutHead(many=True).dump(found)
    heads = ("id", "model", "version", "strategy", "state", "because")
    return Output({"rollouts": data}, table(heads, rows))


def _show(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        return _described(session, rollouts.get_rollout(session, tenant, given.id))


def _moved(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        row = rollouts.get_rollout(session, tenant, given.id)
        given.move(session, row, by, given)
        return _described(session, row)


def _pause(session: Session, row: Rollout, by: Actor, given: argparse.Namespace) -> None:
    control.pause(session, row, by, given.reason)


def _resume(session: Session, row: Rollout, by: Actor, given: argparse.Namespace) -> None:
    control.resume(session, row, by, given.reason)


def _next(session: Session, row: Rollout, by: Actor, given: argparse.Namespace) -> None:
    control.advance(session, row, by, given.reason)


def _abort(session: Session, row: Rollout, by: Actor, given: argparse.Namespace) -> None:
    control.abort(session, row, by, roll_back=given.roll_back, reason=given.reason)


def _described(session: Session, row: Rollout) -> Output:
    """Return the rollout as the API describes it, and as lines."""
    data = rollout_schemas.Rollout().dump(rollouts.describe(session, row))
    groups = [(g["name"], g["state"], g["counts"], g["reason"]) for g in data["groups"]]
    updates = [(u["device"], u["state"], u["phase"], u["reason"]) for u in data["updates"]]
    log = [(e["at"], e["subject"], e["device"], e["after"], e["why"]) for e in data["log"][::-1]]
    lines = [
        f"{row.model} {row.version} ({row.id}) is {row.state}: {row.reason}",
        "",
        *table(("group", "state", "devices", "because"), groups),
        "",
        *table(("device", "state", "phase", "because"), updates),
        "",
        *table(("at", "what", "device", "is", "because"), log),
    ]
    return Output(data, lines)
