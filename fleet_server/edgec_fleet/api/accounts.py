"""Logging in, users and API tokens."""

from datetime import timedelta
from typing import Any

from apiflask import APIBlueprint
from flask import Response, jsonify
from sqlalchemy import select

from edgec_fleet import identity
from edgec_fleet.api import guard, schemas
from edgec_fleet.api.guard import current_caller, requires, server
from edgec_fleet.db.columns import attributes
from edgec_fleet.db.schema import Actor, ApiToken, utcnow
from edgec_fleet.errors import RefusedError, UnknownError

blueprint = APIBlueprint("accounts", __name__, tag="Accounts")


@blueprint.post("/v1/session")
@blueprint.input(schemas.Login)
@blueprint.doc(responses={200: "Logged in: the answer is who you are, with a cookie"})
def log_in(json_data: dict[str, Any]) -> Response:
    """Log in with name and password; scripts use API tokens instead."""
    tenant = json_data.get("tenant") or server().settings.tenant
    secret, csrf = guard.log_in(tenant, json_data["name"], json_data["password"])
    response = jsonify({"name": json_data["name"], "tenant": tenant, "csrf": csrf})
    guard.set_cookie(response, secret)
    return response


@blueprint.get("/v1/session")
@requires("viewer")
@blueprint.output(schemas.Me)
def read_session() -> Any:
    """Return who is calling."""
    return current_caller()


@blueprint.delete("/v1/session")
@requires("viewer")
@blueprint.doc(responses={204: "Logged out"})
def log_out() -> Response:
    """Log the browser session out."""
    response = Response(status=204)
    guard.log_out(response)
    return response


@blueprint.get("/v1/users")
@requires("admin")
@blueprint.output(schemas.User(many=True))
def list_users() -> Any:
    """List the users of one's tenant."""
    with server().db.read() as session:
        return session.scalars(
            select(Actor)
            .where(Actor.tenant == current_caller().tenant, Actor.kind == "user")
            .order_by(Actor.name)
        ).all()


@blueprint.post("/v1/users")
@requires("admin")
@blueprint.input(schemas.UserIn)
@blueprint.output(schemas.User, status_code=201)
def create_user(json_data: dict[str, Any]) -> Any:
    """Add a user. A password that the server made is in this answer only."""
    caller, chosen = current_caller(), json_data["password"]
    with server().db.write() as session:
        actor, password = identity.create_user(
            session, caller.tenant, json_data["name"], json_data["role"], chosen, caller.actor
        )
        shown = {} if chosen else {"password": password}
        return {**attributes(actor), **shown}


@blueprint.patch("/v1/users/<name>")
@requires("admin")
@blueprint.input(schemas.UserChange)
@blueprint.output(schemas.User)
def change_user(name: str, json_data: dict[str, Any]) -> Any:
    """Change a user's role or password, or shut the user out."""
    caller = current_caller()
    with server().db.write() as session:
        actor = identity.get_user(session, caller.tenant, name)
        if actor.id == caller.actor_id and {"role", "disabled"} & json_data.keys():
            raise RefusedError("you cannot change your own role or shut yourself out")
        if "role" in json_data:
            identity.set_role(session, actor, json_data["role"], caller.actor)
        if "password" in json_data:
            identity.set_password(session, actor, json_data["password"], caller.actor)
        if json_data.get("disabled"):
            identity.disable(session, actor, caller.actor)
        elif "disabled" in json_data:
            identity.enable(session, actor, caller.actor)
        return actor


@blueprint.get("/v1/tokens")
@requires("viewer")
@blueprint.output(schemas.Token(many=True))
def list_tokens() -> Any:
    """List one's own API tokens, without their texts."""
    with server().db.read() as session:
        return session.scalars(
            select(ApiToken)
            .where(ApiToken.actor_id == current_caller().actor_id)
            .order_by(ApiToken.created_at.desc())
        ).all()


@blueprint.post("/v1/tokens")
@requires("viewer")
@blueprint.input(schemas.TokenIn)
@blueprint.output(schemas.Token, status_code=201)
def create_token(json_data: dict[str, Any]) -> Any:
    """Make an API token for oneself, never above one's present role; its text is shown once."""
    caller, days = current_caller(), json_data["days"]
    with server().db.write() as session:
        actor = session.get_one(Actor, caller.actor_id)
        role = json_data["role"] or caller.role
        if not caller.may(role):
            raise RefusedError(f"you are {caller.role} here: a token cannot be {role}")
        text, row = identity.create_api_token(
            session,
            actor,
            json_data["name"],
            role,
            utcnow() + timedelta(days=days) if days else None,
            caller.actor,
        )
        return {**attributes(row), "token": text}


@blueprint.delete("/v1/tokens/<token>")
@requires("viewer")
@blueprint.output({}, status_code=204)
def revoke_token(token: str) -> Any:
    """Revoke one's own API token; an admin may revoke anybody's."""
    caller = current_caller()
    with server().db.write() as session:
        row = session.get(ApiToken, token)
        own = row is not None and row.actor_id == caller.actor_id
        if row is None or row.tenant != caller.tenant or not (own or caller.may("admin")):
            raise UnknownError(f"there is no token {token}")
        identity.revoke_api_token(session, row, caller.actor)
    return "", 204
