"""init, upgrade, serve, key, audit: the server itself."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from edgec_bundle.errors import TrustError
from edgec_bundle.trust.keys import load_public
from edgec_bundle.trust.root import ROLES
from edgec_fleet import audit
from edgec_fleet.api import schemas
from edgec_fleet.cli.output import Output, opened, table
from edgec_fleet.db.schema import AuditEntry
from edgec_fleet.errors import RefusedError
from edgec_fleet.initialise import initialise, upgrade
from edgec_fleet.registry import trust_state
from edgec_fleet.settings import Address, Settings


def add_commands(commands: Any) -> None:
    """Add this module's commands to the parser."""
    _add_init(commands)
    serve = commands.add(
        "serve",
        _serve,
        "start the whole server on this machine; Ctrl-C stops it",
        "--dir fleet --http 127.0.0.1:8080",
        plain=True,
    )
    Settings.add_arguments(serve)
    commands.add(
        "upgrade",
        _upgrade,
        "bring the database to this program's schema; stop the server first",
        "--dir fleet",
    )
    key = commands.group("key", "the trust roles and who holds their keys", "list --dir fleet")
    key.add("list", _list_keys, "list roles, key ids and where they sign", "--dir fleet")
    trail = commands.group("audit", "the audit trail", "verify --dir fleet")
    listed = trail.add("list", _list_audit, "list what was done, the newest last", "--dir fleet")
    listed.add_argument("--limit", type=int, default=50, help="how many entries (50)")
    trail.add(
        "verify",
        _verify_audit,
        "check that no entry was changed, removed or inserted (exit code 1 if one was)",
        "--dir fleet",
    )


def _add_init(commands: Any) -> None:
    init = commands.add(
        "init",
        _init,
        "make a fleet server: database, certificate authority, keys, first user",
        "--dir fleet --host fleet.example.org",
        plain=True,
    )
    Settings.add_arguments(init)
    init.add_argument("--tenant", default="default", help="name of the tenant (default)")
    init.add_argument(
        "--host",
        action="append",
        metavar="NAME",
        help="a name or address by which devices reach this machine; repeat for more",
    )
    init.add_argument("--devices-url", metavar="URL", help="HTTPS base URL as devices see it")
    init.add_argument("--mqtt-public", metavar="HOST:PORT", help="the broker as devices see it")
    init.add_argument("--user", default="admin", help="name of the first user (admin)")
    init.add_argument(
        "--public-key",
        action="append",
        default=[],
        metavar="ROLE=FILE",
        help="public key (JSON) of targets or acceptance, whose private key stays elsewhere",
    )


def _init(given: argparse.Namespace) -> Output:
    settings = Settings(dir=given.dir, tenant=given.tenant)
    changes: dict[str, Any] = {
        name: value
        for name in ("database", "blobs", "broker", "devices_url")
        if (value := getattr(given, name)) is not None
    }
    for name in ("http", "devices", "mqtt", "mqtt_public"):
        if (value := getattr(given, name)) is not None:
            changes[name] = Address.parse(value)
    if given.host:
        changes["hosts"] = tuple(dict.fromkeys((*given.host, *settings.hosts)))
    settings = replace(settings, **changes)
    public = dict(_public_key(text) for text in given.public_key)
    login = initialise(settings, user=given.user, public_keys=public)
    url = f"{'http' if settings.http.is_loopback else 'https'}://{settings.http}"
    data = {
        "dir": str(settings.dir),
        "console": url,
        "user": login.user,
        "password": login.password,
        "tenant": settings.tenant,
    }
    lines = [
        f"A fleet server is in {settings.dir}.",
        f"Console:  {url}",
        f"User:     {login.user}",
        f"Password: {login.password}   (shown this once)",
        f"Start it: edgec-fleet serve --dir {settings.dir}",
    ]
    return Output(data, lines)


def _public_key(text: str) -> tuple[str, Any]:
    role, equals, path = text.partition("=")
    if not equals:
        raise RefusedError(f"expected ROLE=FILE, got {text!r}")
    try:
        return role, load_public(Path(path))
    except TrustError as error:
        raise RefusedError(str(error)) from error


def _serve(given: argparse.Namespace) -> Output:
    from edgec_fleet import serve

    return Output(None, code=serve.serve(Settings.from_arguments(given)))


def _upgrade(given: argparse.Namespace) -> Output:
    upgrade(Settings.load(given.dir))
    return Output({"upgraded": True}, ["The database has this program's schema."])


def _list_keys(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        repository = trust_state.repository_of(session, tenant)
        keystore, root = server.keystore(tenant), repository.root
        data, rows = [], []
        for role in ROLES:
            keyids, uri = trust_state.keys_of(root, role), keystore.uri(role)
            if uri is not None and keystore.public(role).keyid not in keyids:
                uri = None  # a key from before a rotation
            data.append({"role": role, "keyids": list(keyids), "uri": uri})
            rows.append((role, [keyid[:8] for keyid in keyids], uri or "elsewhere"))
    return Output({"keys": data}, table(("role", "key ids", "signs with"), rows))


def _list_audit(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        newest = session.scalars(
            select(AuditEntry)
            .where(AuditEntry.tenant == tenant)
            .order_by(AuditEntry.seq.desc())
            .limit(max(given.limit, 0))
        ).all()
        entries = newest[::-1]
        rows = [
            (e.seq, e.at, e.actor_name, e.action, f"{e.object_kind} {e.object_id}") for e in entries
        ]
        data = schemas.AuditEntry(many=True).dump(entries)
    return Output({"entries": data}, table(("seq", "at", "who", "did", "to"), rows))


def _verify_audit(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        verdict = audit.verify(session, tenant)
    data = {
        "entries": verdict.entries,
        "head": verdict.head,
        "ok": not verdict.problems,
        "problems": list(verdict.problems),
    }
    if verdict.problems:
        return Output(data, [f"The audit trail is broken: {p}" for p in verdict.problems], 1)
    return Output(data, [f"{verdict.entries} entries, unbroken; the last is {verdict.head}"])
