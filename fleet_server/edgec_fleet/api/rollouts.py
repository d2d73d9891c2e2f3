"""Rollouts: ordered, watched, paused, moved on, aborted."""

from typing import Any

from apiflask import APIBlueprint
from flask import request

from edgec_fleet import rollouts
from edgec_fleet.api import rollout_schemas as schemas
from edgec_fleet.api.guard import current_caller, requires, server
from edgec_fleet.rollout import control

blueprint = APIBlueprint("rollouts", __name__, tag="Rollouts")


@blueprint.post("/v1/rollouts")
@requires("operator")
@blueprint.input(schemas.RolloutIn, validation=False)
@blueprint.output(schemas.Rollout, status_code=201)
def create_rollout(json_data: object) -> Any:
    """Begin to bring a release to devices, group by group."""
    caller = current_caller()
    with server().db.write() as session:
        rollout = control.create(session, caller.tenant, request.get_json(), caller.actor)
        return rollouts.describe(session, rollout)


@blueprint.get("/v1/rollouts")
@requires("viewer")
@blueprint.output(schemas.Rollouts)
def list_rollouts() -> Any:
    """List rollouts, the newest first; `?model=` and `?state=` choose."""
    with server().db.read() as session:
        found = rollouts.list_rollouts(
            session,
            current_caller().tenant,
            model=request.args.get("model"),
            state=request.args.get("state"),
        )
        return {"rollouts": found}


@blueprint.get("/v1/rollouts/<rollout>")
@requires("viewer")
@blueprint.output(schemas.Rollout)
def read_rollout(rollout: str) -> Any:
    """Return a rollout with its groups, its devices and the why of every step."""
    with server().db.read() as session:
        row = rollouts.get_rollout(session, current_caller().tenant, rollout)
        return rollouts.describe(session, row)


@blueprint.post("/v1/rollouts/<rollout>/pause")
@requires("operator")
@blueprint.input(schemas.WhyIn)
@blueprint.output(schemas.Rollout)
def pause_rollout(rollout: str, json_data: dict[str, Any]) -> Any:
    """Tell no further device; those that were told go on."""
    caller = current_caller()
    with server().db.write() as session:
        row = rollouts.get_rollout(session, caller.tenant, rollout)
        control.pause(session, row, caller.actor, json_data["reason"])
        return rollouts.describe(session, row)


@blueprint.post("/v1/rollouts/<rollout>/<any(resume, next):action>")
@requires("operator")
@blueprint.input(schemas.WhyIn)
@blueprint.output(schemas.Rollout)
def move_rollout(rollout: str, action: str, json_data: dict[str, Any]) -> Any:
    """Resume, or go on to the next group; both accept the failures so far."""
    caller = current_caller()
    move = control.resume if action == "resume" else control.advance
    with server().db.write() as session:
        row = rollouts.get_rollout(session, caller.tenant, rollout)
        move(session, row, caller.actor, json_data["reason"])
        return rollouts.describe(session, row)


@blueprint.post("/v1/rollouts/<rollout>/abort")
@requires("operator")
@blueprint.input(schemas.AbortIn)
@blueprint.output(schemas.Rollout)
def abort_rollout(rollout: str, json_data: dict[str, Any]) -> Any:
    """End it: queued devices are never told; with `roll_back` the others are told to go back."""
    caller = current_caller()
    with server().db.write() as session:
        row = rollouts.get_rollout(session, caller.tenant, rollout)
        control.abort(session, row, caller.actor, **json_data)
        return rollouts.describe(session, row)


@blueprint.post("/v1/rollouts/<rollout>/devices/<device>/<any(retry, exclude):action>")
@requires("operator")
@blueprint.output(schemas.Rollout)
def act_on_device(rollout: str, device: str, action: str) -> Any:
    """Queue a device again that did not commit, or take it out of the count."""
    caller = current_caller()
    act = control.retry_device if action == "retry" else control.exclude_device
    with server().db.write() as session:
        row = rollouts.get_rollout(session, caller.tenant, rollout)
        act(session, row, device, caller.actor)
        return rollouts.describe(session, row)
