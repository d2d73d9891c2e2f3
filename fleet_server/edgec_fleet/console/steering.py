"""What operators do from the console: start, pause, resume, abort, retry, exclude, revoke.

Every action goes through the functions that the REST API uses; a page that asks first says what
will happen and to how many devices.
"""

from typing import Any

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from edgec_fleet import enrolment
from edgec_fleet.api import guard
from edgec_fleet.console import queries
from edgec_fleet.console.frame import console, shown_to
from edgec_fleet.console.pages import find_release, find_rollout
from edgec_fleet.db.schema import Release, Rollout
from edgec_fleet.errors import FleetError, RefusedError
from edgec_fleet.rollout import control
from edgec_fleet.rollout.create import create
from edgec_fleet.rollout.decide import TOLD

MOVES = {"pause": control.pause, "resume": control.resume, "next": control.advance}
DEVICE_MOVES = {"retry": control.retry_device, "exclude": control.exclude_device}


@console.get("/models/<model>/<version>/roll-out")
@shown_to("operator")
def new_rollout(model: str, version: str) -> ResponseReturnValue:
    """Ask how to roll a release out."""
    with guard.server().db.read() as session:
        found = find_release(session, model, version)
        return _form(session, found, {"strategy": "canary", "rate": ""}, None)


@console.post("/models/<model>/<version>/roll-out")
@shown_to("operator")
def create_rollout(model: str, version: str) -> ResponseReturnValue:
    """Start the rollout, or say on the form what is wrong."""
    caller = guard.current_caller()
    form = {name: request.form.get(name, "") for name in ("strategy", "rate")}
    try:
        order = {
            "model": model,
            "version": version,
            "strategy": form["strategy"],
            "rate_per_minute": _number(form["rate"]),
        }
        with guard.server().db.write() as session:
            created = create(session, caller.tenant, order, caller.actor)
    except FleetError as error:
        with guard.server().db.read() as session:
            found = find_release(session, model, version)
            return _form(session, found, form, str(error)), error.status
    return redirect(url_for("console.rollout", identity=created.id), 303)


@console.post("/rollouts/<identity>/<any(pause, resume, next):action>")
@shown_to("operator")
def steer(identity: str, action: str) -> ResponseReturnValue:
    """Pause, resume, or start the next group."""
    caller = guard.current_caller()
    with guard.server().db.write() as session:
        MOVES[action](session, find_rollout(session, identity), caller.actor)
    return redirect(url_for("console.rollout", identity=identity), 303)


@console.post("/rollouts/<identity>/devices/<device>/<any(retry, exclude):action>")
@shown_to("operator")
def steer_device(identity: str, device: str, action: str) -> ResponseReturnValue:
    """Try a device again, or take it out of the rollout's count."""
    caller = guard.current_caller()
    with guard.server().db.write() as session:
        DEVICE_MOVES[action](session, find_rollout(session, identity), device, caller.actor)
    return redirect(url_for("console.rollout", identity=identity), 303)


@console.get("/rollouts/<identity>/abort")
@shown_to("operator")
def confirm_abort(identity: str) -> ResponseReturnValue:
    """Say what aborting does, and to how many devices."""
    with guard.server().db.read() as session:
        found = find_rollout(session, identity)
        counts = _counts(session, found)
    told = sum(counts.get(state, 0) for state in (*TOLD, "probation"))
    return render_template(
        "confirm.html",
        title=f"Abort the rollout of {found.model} {found.version}",
        consequences=(
            f"{counts.get('queued', 0)} devices that have not been told yet never will be.",
            f"{told} devices are at it now, and {counts.get('committed', 0)} run {found.version} "
            "already; what happens to them is your choice.",
        ),
        choices=(
            ("keep", "leave them: those at it finish, the others keep it"),
            ("back", "send them back to what they ran before"),
        ),
        asks_reason=True,
        action=url_for("console.abort", identity=identity),
        button="Abort the rollout",
        back=url_for("console.rollout", identity=identity),
    )


@console.post("/rollouts/<identity>/abort")
@shown_to("operator")
def abort(identity: str) -> ResponseReturnValue:
    """Abort, and send devices back if asked."""
    caller = guard.current_caller()
    with guard.server().db.write() as session:
        control.abort(
            session,
            find_rollout(session, identity),
            caller.actor,
            roll_back=request.form.get("choice") == "back",
            reason=_reason(),
        )
    return redirect(url_for("console.rollout", identity=identity), 303)


@console.get("/devices/<identity>/revoke")
@shown_to("operator")
def revoke_device(identity: str) -> ResponseReturnValue:
    """Say what revoking does."""
    with guard.server().db.read() as session:
        found = enrolment.get_device(session, guard.current_caller().tenant, identity)
    return render_template(
        "confirm.html",
        title=f"Revoke {found.id}",
        consequences=(
            "One device is shut out for good: its certificate is worthless at the broker and at "
            "this server, and it gets no more releases. It goes on serving what it has.",
            "To take it back it has to be enrolled again under another id.",
        ),
        choices=(),
        asks_reason=True,
        action=url_for("console.revoke", identity=found.id),
        button="Revoke the device",
        back=url_for("console.device", identity=found.id),
    )


@console.post("/devices/<identity>/revoke")
@shown_to("operator")
def revoke(identity: str) -> ResponseReturnValue:
    """Shut the device out."""
    caller = guard.current_caller()
    with guard.server().db.write() as session:
        found = enrolment.get_device(session, caller.tenant, identity)
        enrolment.revoke(session, found, _reason(), caller.actor)
    return redirect(url_for("console.device", identity=identity), 303)


def _form(session: Session, release: Release, form: dict[str, str], error: str | None) -> str:
    tenant = guard.current_caller().tenant
    profiles = {variant.profile for variant in release.variants}
    life = queries.life(session, tenant)
    return render_template(
        "new_rollout.html",
        release=release,
        form=form,
        error=error,
        life=life,
        matching=queries.accepting(session, tenant, profiles),
    )


def _counts(session: Session, rollout: Rollout) -> dict[str, int]:
    totals: dict[str, int] = {}
    for group in queries.progress(session, rollout):
        for state, count in group.counts.items():
            totals[state] = totals.get(state, 0) + count
    return totals


def _reason() -> str:
    text = request.form.get("reason", "").strip()
    if not text or len(text) > 500:
        raise RefusedError("say why, in up to 500 characters")
    return text


def _number(text: str) -> Any:
    """Return the form's number, or the text itself for `Spec` to refuse; None for nothing."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text
