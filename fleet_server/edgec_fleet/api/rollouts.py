"""Rollouts: ordered, watched, paused, moved on, aborted."""

from typing import Any

from apiflask import APIBlueprint
from flask import request

from edgec_fleet import rollouts
from edgec_fleet.api import rollout_schemas as schemas
from edgec_fleet.api.guard import current_caller, requires, server

blueprint = APIBlueprint("rollouts", __name__, tag="Rollouts")


@blueprint.post("/v1/rollouts")
@requires("operator")
@blueprint.input(schemas.RolloutIn, validation=False)
@blueprint.output(schemas.Rollout, status_code=201)
def create_rollout(json_data: dict[str, Any]) -> Any:
    """Begin to bring a release to devices, group by group."""
    from edgec_fleet.rollout import control

    caller = current_caller()
    with server().db.write() as session:
        rollout = control.create(session, caller.tenant, json_data, caller.actor)
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
        return {"rollouts": schemas.RolloutHead(many=True).dump(found)}


@blueprint.get("/v1/rollouts/<rollout>")
@requires("viewer")
@blueprint.output(schemas.Rollout)
def read_rollout(rollout: str) -> Any:
    """Return a rollout with its groups, its devices and the why of every step."""
    with server().db.read() as session:
        row = rollouts.get_rollout(session, current_caller().tenant, rollout)
        return rollouts.describe(session, row)


@blueprint.post("/v1/rollouts/<rollout>/<any(pause, resume, next, abort):action>")
@requires("operator")
@blueprint.input(schemas.WhyIn)
@blueprint.output(schemas.Rollout)
def act(rollout: str, action: str, json_data: dict[str, Any]) -> Any:
    """Pause, resume, go on to the next group, or abort (what was not told yet never is)."""
    from edgec_fleet.rollout import control

    moves = {
        "pause": control.pause,
        "resume": control.resume,
        "next": control.advance,
        "abort": control.abort,
    }
    caller = current_caller()
    with server().db.write() as session:
        row = rollouts.get_rollout(session, caller.tenant, rollout, lock=True)
        moves[action](session, row, caller.actor, json_data["reason"])
        return rollouts.describe(session, row)
