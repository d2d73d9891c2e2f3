"""Devices and enrolment tokens."""

from datetime import timedelta
from typing import Any

from apiflask import APIBlueprint
from sqlalchemy import select

from edgec_fleet import devices, enrolment
from edgec_fleet.api import schemas
from edgec_fleet.api.guard import current_caller, requires, server
from edgec_fleet.db.columns import attributes
from edgec_fleet.db.schema import EnrolmentToken
from edgec_fleet.errors import RefusedError, UnknownError

blueprint = APIBlueprint("devices", __name__, tag="Devices")


@blueprint.get("/v1/devices")
@requires("viewer")
@blueprint.input(schemas.DeviceQuery, location="query")
@blueprint.output(schemas.Devices)
def list_devices(query_data: dict[str, Any]) -> Any:
    """List devices by id, a page at a time."""
    tags = dict(_tag(text) for text in query_data.get("tag", ()))
    with server().db.read() as session:
        page = devices.list_devices(
            session,
            current_caller().tenant,
            part_of_id=query_data.get("q"),
            online=query_data.get("online"),
            tags=tags,
            after=query_data.get("after"),
            limit=query_data["limit"],
        )
        return page


@blueprint.get("/v1/devices/<device>")
@requires("viewer")
@blueprint.output(schemas.DeviceWithEvents)
def read_device(device: str) -> Any:
    """Return a device and its timeline."""
    with server().db.read() as session:
        row = enrolment.get_device(session, current_caller().tenant, device)
        return {**attributes(row), "events": devices.timeline(session, row)}


@blueprint.post("/v1/devices/<device>/revoke")
@requires("operator")
@blueprint.input(schemas.RevokeIn)
@blueprint.output(schemas.Device)
def revoke_device(device: str, json_data: dict[str, Any]) -> Any:
    """Shut a device out for good: its certificates are worthless from now on."""
    caller = current_caller()
    with server().db.write() as session:
        row = enrolment.get_device(session, caller.tenant, device)
        enrolment.revoke(session, row, json_data["reason"], caller.actor)
        return row


@blueprint.put("/v1/devices/<device>/tags")
@requires("operator")
@blueprint.input(schemas.TagsIn)
@blueprint.output(schemas.Device)
def set_tags(device: str, json_data: dict[str, Any]) -> Any:
    """Replace a device's tags."""
    caller = current_caller()
    with server().db.write() as session:
        row = enrolment.get_device(session, caller.tenant, device)
        devices.set_tags(session, row, json_data["tags"], caller.actor)
        return row


@blueprint.post("/v1/enrolment-tokens")
@requires("operator")
@blueprint.input(schemas.EnrolmentTokenIn)
@blueprint.output(schemas.EnrolmentToken, status_code=201)
def create_enrolment_token(json_data: dict[str, Any]) -> Any:
    """Make an enrolment token; its text is in this answer only."""
    caller, here = current_caller(), server()
    with here.db.write() as session:
        text, row = enrolment.create_token(
            here,
            session,
            caller.tenant,
            caller.actor,
            actor_id=caller.actor_id,
            valid=timedelta(hours=json_data["hours"]),
            max_uses=json_data["max_uses"],
            tags=json_data["tags"],
            note=json_data["note"],
        )
        return {**attributes(row), "token": text}


@blueprint.get("/v1/enrolment-tokens")
@requires("operator")
@blueprint.output(schemas.EnrolmentToken(many=True))
def list_enrolment_tokens() -> Any:
    """List enrolment tokens without their texts, the newest first."""
    with server().db.read() as session:
        return session.scalars(
            select(EnrolmentToken)
            .where(EnrolmentToken.tenant == current_caller().tenant)
            .order_by(EnrolmentToken.created_at.desc())
            .limit(500)
        ).all()


@blueprint.delete("/v1/enrolment-tokens/<token>")
@requires("operator")
@blueprint.output({}, status_code=204)
def revoke_enrolment_token(token: str) -> Any:
    """Make an enrolment token worthless; devices that used it stay."""
    caller = current_caller()
    with server().db.write() as session:
        row = session.get(EnrolmentToken, token)
        if row is None or row.tenant != caller.tenant:
            raise UnknownError(f"there is no enrolment token {token}")
        enrolment.revoke_token(session, row, caller.actor)
    return "", 204


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RefusedError(f"expected a tag as name=value, got {text!r}")
    return name, value
