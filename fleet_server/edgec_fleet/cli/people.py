"""user, token: who may do what, and tokens for scripts and for devices."""

import argparse
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from edgec_fleet import identity
from edgec_fleet.api import schemas
from edgec_fleet.cli.output import Output, opened, table
from edgec_fleet.db.columns import attributes
from edgec_fleet.db.schema import ROLES, Actor, ApiToken, EnrolmentToken, utcnow
from edgec_fleet.enrolment import create_token, revoke_token
from edgec_fleet.errors import RefusedError, UnknownError


def add_commands(commands: Any) -> None:
    """Add this module's commands to the parser."""
    _add_user(commands.group("user", "users of console and API", "list --dir fleet"))
    _add_token(commands.group("token", "enrolment and API tokens", "create --dir fleet"))


def _add_user(user: Any) -> None:
    user.add("list", _list_users, "list users", "--dir fleet")
    add = user.add("add", _add, "add a user; prints the password once", "ada --role operator")
    add.add_argument("name")
    add.add_argument("--role", required=True, choices=ROLES)
    role = user.add("role", _role, "give a user another role", "ada releaser --dir fleet")
    role.add_argument("name")
    role.add_argument("role", choices=ROLES)
    for name, text in (
        ("password", "give a user a new password and end its sessions; prints it once"),
        ("disable", "shut a user out; its history stays"),
        ("enable", "let a disabled user back in"),
    ):
        change = user.add(name, _change, text, "ada --dir fleet")
        change.add_argument("name")
        change.set_defaults(change=name)


def _add_token(token: Any) -> None:
    create = token.add(
        "create",
        _create,
        "make an enrolment token for devices; prints it once",
        "--dir fleet --uses 10 --tag site=berlin",
    )
    create.add_argument("--hours", type=float, default=24.0, help="how long it is valid (24)")
    create.add_argument("--uses", type=int, default=1, help="how many devices may use it (1)")
    create.add_argument(
        "--tag", action="append", default=[], metavar="NAME=VALUE", help="tag its devices so"
    )
    create.add_argument("--note", default="", help="what it is for")
    token.add("list", _list_tokens, "list enrolment and API tokens", "--dir fleet")
    api = token.add(
        "api", _api, "make an API token of a user; prints it once", "--user admin --days 90"
    )
    api.add_argument("--user", required=True)
    api.add_argument("--name", default="made by edgec-fleet", help="what it is for")
    api.add_argument("--role", choices=ROLES, help="cap it below the user's role")
    api.add_argument("--days", type=float, help="how long it is valid (for ever)")
    revoke = token.add("revoke", _revoke, "make a token of either kind worthless", "ID --dir fleet")
    revoke.add_argument("id")


def _list_users(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        users = session.scalars(
            select(Actor).where(Actor.tenant == tenant, Actor.kind == "user").order_by(Actor.name)
        ).all()
        rows = [(u.name, u.role, u.disabled_at is None, u.last_login_at) for u in users]
        data = schemas.User(many=True).dump(users)
    return Output({"users": data}, table(("name", "role", "active", "last login"), rows))


def _add(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        actor, password = identity.create_user(session, tenant, given.name, given.role, None, by)
        data = schemas.User().dump({**attributes(actor), "password": password})
    lines = [f"User:     {given.name}", f"Password: {password}   (shown this once)"]
    return Output(data, lines)


def _role(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        actor = identity.get_user(session, tenant, given.name)
        identity.set_role(session, actor, given.role, by)
        return Output(schemas.User().dump(actor), [f"{given.name} is {given.role}."])


def _change(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        actor = identity.get_user(session, tenant, given.name)
        if given.change == "password":
            password = identity.set_password(session, actor, None, by)
            data = schemas.User().dump({**attributes(actor), "password": password})
            return Output(data, [f"Password: {password}   (shown this once)"])
        change = identity.disable if given.change == "disable" else identity.enable
        change(session, actor, by)
        return Output(schemas.User().dump(actor), [f"{given.name} is {given.change}d."])


def _create(given: argparse.Namespace) -> Output:
    if not 0 < given.hours <= 24 * 365:
        raise RefusedError("expected --hours above 0, at most a year's")
    with opened(given) as (server, tenant, by), server.db.write() as session:
        text, row = create_token(
            server,
            session,
            tenant,
            by,
            valid=timedelta(hours=given.hours),
            max_uses=given.uses,
            tags=dict(tag(item) for item in given.tag),
            note=given.note,
        )
        data = schemas.EnrolmentToken().dump({**attributes(row), "token": text})
    return Output(data, [text])


def _list_tokens(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        enrolment = session.scalars(
            select(EnrolmentToken)
            .where(EnrolmentToken.tenant == tenant)
            .order_by(EnrolmentToken.created_at)
        ).all()
        api = session.execute(
            select(ApiToken, Actor.name)
            .join(Actor, Actor.id == ApiToken.actor_id)
            .where(ApiToken.tenant == tenant)
            .order_by(ApiToken.created_at)
        ).all()
        rows = [
            (t.id, "enrolment", t.note, t.expires_at, f"{t.uses}/{t.max_uses}", t.revoked_at)
            for t in enrolment
        ] + [(t.id, f"API of {n}", t.name, t.expires_at, t.role, t.revoked_at) for t, n in api]
        data = {
            "enrolment": schemas.EnrolmentToken(many=True).dump(enrolment),
            "api": [{**schemas.Token().dump(row), "user": name} for row, name in api],
        }
    return Output(data, table(("id", "kind", "for", "expires", "uses/role", "revoked"), rows))


def _api(given: argparse.Namespace) -> Output:
    if given.days is not None and not 0 < given.days <= 3650:
        raise RefusedError("expected --days above 0, at most 3650")
    expires = None if given.days is None else utcnow() + timedelta(days=given.days)
    with opened(given) as (server, tenant, by), server.db.write() as session:
        actor = identity.get_user(session, tenant, given.user)
        text, row = identity.create_api_token(session, actor, given.name, given.role, expires, by)
        data = schemas.Token().dump({**attributes(row), "token": text})
    return Output(data, [text])


def _revoke(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        api, device = session.get(ApiToken, given.id), session.get(EnrolmentToken, given.id)
        if api is not None and api.tenant == tenant:
            identity.revoke_api_token(session, api, by)
        elif device is not None and device.tenant == tenant:
            revoke_token(session, device, by)
        else:
            raise UnknownError(f"there is no token {given.id}")
    return Output({"id": given.id, "revoked": True}, [f"{given.id} is revoked."])


def tag(text: str) -> tuple[str, str]:
    """Return (name, value) of "name=value". Raises RefusedError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise RefusedError(f"expected a tag as NAME=VALUE, got {text!r}")
    return name, value
