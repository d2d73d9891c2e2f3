"""release, acceptance: what may be rolled out."""

import argparse
from pathlib import Path
from typing import Any

from edgec_fleet.api import schemas
from edgec_fleet.cli.output import Output, opened, table
from edgec_fleet.errors import RefusedError
from edgec_fleet.registry import acceptance, releases
from edgec_fleet.registry.publish import publish, take


def add_commands(commands: Any) -> None:
    """Add this module's commands to the parser."""
    _add_release(commands.group("release", "releases of models", "list --dir fleet"))
    _add_acceptance(
        commands.group("acceptance", "acceptance sets of model lines", "list --dir fleet")
    )


def _add_release(release: Any) -> None:
    listed = release.add("list", _list, "list releases, the newest first", "--dir fleet")
    listed.add_argument("--model")
    added = release.add(
        "publish", _publish, "publish bundles of one release from files here", "digits-*.edgeb"
    )
    added.add_argument("bundle", type=Path, nargs="+")
    added.add_argument("--targets", type=Path, help="a finished targets.json, signed elsewhere")
    for name, run, text, example in (
        ("show", _show, "show one release with its variants", "digits 1.1.0 --dir fleet"),
        (
            "sign",
            _sign,
            "sign an unsigned release with the release key held here",
            "digits 1.1.0 --dir fleet",
        ),
        (
            "withdraw",
            _withdraw,
            "re-sign without a release: no device installs it any more",
            "digits 1.1.0 --reason wrong",
        ),
    ):
        command = release.add(name, run, text, example)
        command.add_argument("model")
        command.add_argument("version")
    command.add_argument("--reason", required=True, help="why, for the record")
    command.add_argument("--targets", type=Path, help="a finished targets.json without it")


def _add_acceptance(group: Any) -> None:
    group.add("list", _list_acceptance, "list model lines and their sets", "--dir fleet")
    put = group.add(
        "set",
        _set_acceptance,
        "give a model line an acceptance set, signed by the key held here or elsewhere",
        "digits --data acceptance.npz --minimum 0.95 --dir fleet",
    )
    put.add_argument("model")
    put.add_argument("--data", type=Path, help="an .npz with inputs and labels")
    put.add_argument("--minimum", type=float, help="the least score, 0..1")
    put.add_argument("--acceptance", type=Path, help="a finished acceptance.json")
    remove = group.add("remove", _remove_acceptance, "take a set away", "digits --dir fleet")
    remove.add_argument("model")


def _list(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        found = releases.list_releases(session, tenant, model=given.model)
        rows = [
            (r.model, r.version, r.number, r.state, [v.profile for v in r.variants], r.created_at)
            for r in found
        ]
        data = schemas.Release(many=True).dump(found)
    heads = ("model", "version", "release", "state", "profiles", "published at")
    return Output({"releases": data}, table(heads, rows))


def _publish(given: argparse.Namespace) -> Output:
    targets = given.targets.read_bytes() if given.targets else None
    with opened(given) as (server, tenant, by):
        bundles = take(server, given.bundle)
        with server.db.write() as session:
            done = publish(server, session, tenant, bundles, targets, by)
            model, version = done.release.model, done.release.version
            release = releases.get_release(session, tenant, model, version)
            data = {**schemas.Release().dump(release), "sign_with": done.sign_with}
    lines = [f"{model} {version} is {data['state']}."]
    return Output(data, [*lines, *([f"Sign it: {done.sign_with}"] if done.sign_with else [])])


def _show(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        release = releases.get_release(session, tenant, given.model, given.version)
        rows = [
            (v.profile, v.signed, v.manifest_sha256[:8], f.role, f.bytes, f.sha256[:8])
            for v in release.variants
            for f in v.files
        ]
        data = schemas.Release().dump(release)
    head = f"{given.model} {given.version}: release {data['release']}, {data['state']}"
    return Output(
        data, [head, *table(("profile", "signed", "manifest", "file", "bytes", "sha256"), rows)]
    )


def _sign(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        release = releases.get_release(session, tenant, given.model, given.version)
        releases.sign(server, session, release, by)
        data = schemas.Release().dump(release)
    return Output(data, [f"{given.model} {given.version} is {data['state']}."])


def _withdraw(given: argparse.Namespace) -> Output:
    targets = given.targets.read_bytes() if given.targets else None
    with opened(given) as (server, tenant, by), server.db.write() as session:
        release = releases.get_release(session, tenant, given.model, given.version)
        releases.withdraw(server, session, release, given.reason, by, targets)
        data = schemas.Release().dump(release)
    return Output(data, [f"{given.model} {given.version} is {data['state']}."])


def _list_acceptance(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, _by), server.db.read() as session:
        found = releases.list_models(session, tenant)
        rows = [
            (m.name, (m.acceptance_sha256 or "-")[:8], m.acceptance_minimum, m.acceptance_metric)
            for m in found
        ]
        data = schemas.Model(many=True).dump(found)
    return Output({"models": data}, table(("model", "set", "minimum", "metric"), rows))


def _set_acceptance(given: argparse.Namespace) -> Output:
    data = given.data.read_bytes() if given.data else None
    with opened(given) as (server, tenant, by), server.db.write() as session:
        if given.acceptance is not None:
            document = given.acceptance.read_bytes()
            row = acceptance.publish_acceptance(
                server, session, tenant, given.model, data, document, by
            )
        elif data is not None and given.minimum is not None:
            row = acceptance.set_acceptance(
                server, session, tenant, given.model, data, given.minimum, by
            )
        else:
            raise RefusedError("expected --data and --minimum, or --acceptance")
        shown = schemas.Model().dump(row)
    return Output(shown, [f"{given.model} must reach {shown['acceptance_minimum']} from now on."])


def _remove_acceptance(given: argparse.Namespace) -> Output:
    with opened(given) as (server, tenant, by), server.db.write() as session:
        row = acceptance.remove_acceptance(server, session, tenant, given.model, by)
        data = schemas.Model().dump(row)
    return Output(data, [f"{given.model} has no acceptance set any more."])
