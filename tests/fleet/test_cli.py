"""The command line: every command does what its help says, and refuses in a sentence."""

import argparse
import json
import re
from pathlib import Path

import pytest

from edgec_bundle.trust import generate_key, public_path
from edgec_fleet.cli import main
from edgec_fleet.cli.program import build_parser
from edgec_fleet.db.schema import Base, Device, DeviceUpdate
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli-edgec-fleet.md"
ON_SQLITE = pytest.mark.parametrize("template", ["sqlite"], indirect=True)


@pytest.fixture
def run(settings, capsys):
    """Return a function that runs a command in the test's server: (exit code, out, err)."""

    def run(*arguments):
        code = main([*map(str, arguments), "--dir", str(settings.dir)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def say(run):
    """Return a function that runs a command with --json and returns its value."""

    def say(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return say


def commands(parser=None, path=()):
    """Yield (words, parser) for every command."""
    parser = parser or build_parser()
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield path, parser
    for action in inner:
        for name, child in action.choices.items():
            yield from commands(child, (*path, name))


COMMANDS = {" ".join(words): parser for words, parser in commands()}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(name):
    shown = COMMANDS[name].format_help()

    example = re.search(rf"example:\n  edgec-fleet ({name}.*)$", shown, re.MULTILINE)
    assert example, shown
    words = example[1].replace("'too slow'", "slow").split()
    given = build_parser().parse_args([*words, *(["--dir", "x"] if "--dir" not in words else [])])
    assert callable(given.run)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_reference(name):
    assert f"edgec-fleet {name}" in REFERENCE.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["user"], ["release", "show"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)

    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


class TestInit:
    def init(self, capsys, folder, *arguments):
        code = main(["init", "--dir", str(folder), *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    def test_it_makes_a_server_and_shows_the_login_once(self, tmp_path, capsys):
        code, out, _ = self.init(capsys, tmp_path / "fleet", "--json")

        made = json.loads(out)
        assert code == 0
        assert (made["user"], made["console"]) == ("admin", "http://127.0.0.1:8080")
        assert len(made["password"]) >= 16
        everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
        assert made["password"].encode() not in everything

    def test_keys_are_readable_by_their_owner_only(self, tmp_path, capsys):
        self.init(capsys, tmp_path / "fleet")

        for path in (tmp_path / "fleet" / "keys").iterdir():
            if path.suffix in (".pem", ".key"):
                assert path.stat().st_mode & 0o077 == 0, path
        assert (tmp_path / "fleet").stat().st_mode & 0o077 == 0

    def test_options_are_kept(self, tmp_path, capsys):
        self.init(
            capsys,
            tmp_path,
            *("--http", "0.0.0.0:80", "--devices", "[::1]:444", "--host", "fleet.example.org"),
            *("--mqtt-public", "mqtt.example.org:1", "--tenant", "acme", "--user", "ada"),
        )

        settings = Settings.load(tmp_path)
        assert settings.http == Address("0.0.0.0", 80)
        assert settings.devices == Address("::1", 444)
        assert settings.hosts[0] == "fleet.example.org"
        assert settings.public_mqtt == Address("mqtt.example.org", 1)
        assert settings.tenant == "acme"

    def test_twice_is_refused_and_harms_nothing(self, tmp_path, capsys):
        self.init(capsys, tmp_path)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

        code, _, err = self.init(capsys, tmp_path)

        assert code == 1
        assert "already" in err
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before

    @pytest.mark.parametrize("left", ["keys/ca.key", "fleet.db", "blobs/x"])
    def test_a_folder_that_lost_its_config_is_not_overwritten(self, tmp_path, capsys, left):
        precious = tmp_path / left
        precious.parent.mkdir(parents=True, exist_ok=True)
        precious.write_bytes(b"precious")

        assert self.init(capsys, tmp_path)[0] == 1
        assert precious.read_bytes() == b"precious"

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["--tenant", "../x"], 2),
            (["--user", "A B"], 2),
            (["--http", "nonsense"], 2),
            (["--http", "127.0.0.1:99999"], 2),
            (["--public-key", "targets"], 2),
            (["--public-key", "targets=/nowhere"], 2),
            (["--database", "sqlite:////nowhere/x.db"], 4),
            (["--database", "postgresql://nobody@127.0.0.1:1/x"], 4),
            (["--database", "not a url"], 2),
        ],
    )
    def test_what_fails_leaves_no_folder(self, tmp_path, capsys, arguments, code):
        found, _, err = self.init(capsys, tmp_path / "fleet", *arguments)

        assert found == code, err
        assert err.startswith("edgec-fleet: ")
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "fleet").exists()

    def test_the_release_key_may_stay_elsewhere(self, tmp_path, capsys):
        generate_key(tmp_path / "release.pem")

        code, _, _ = self.init(
            capsys,
            tmp_path / "fleet",
            *("--public-key", f"targets={public_path(tmp_path / 'release.pem')}"),
        )

        assert code == 0
        assert not (tmp_path / "fleet" / "keys" / "targets.pem").exists()
        main(["key", "list", "--dir", str(tmp_path / "fleet"), "--json"])
        keys = {key["role"]: key for key in json.loads(capsys.readouterr().out)["keys"]}
        assert keys["targets"]["uri"] is None
        assert keys["snapshot"]["uri"].startswith("file2:")


BROKEN = {
    "not TOML": "x = = 1",
    "an unknown key": "colour = 'red'",
    "a port too high": "http = '127.0.0.1:70000'",
    "a number for an address": "http = 8080",
    "no hosts": "hosts = []",
    "a negative limit": "max_upload_bytes = -1",
    "a truth for a number": "max_upload_bytes = true",
}


class TestConfig:
    @ON_SQLITE
    @pytest.mark.parametrize("name", BROKEN)
    def test_a_broken_config_is_named(self, settings, run, name):
        (settings.dir / "config.toml").write_text(BROKEN[name])

        code, _, err = run("device", "list")

        assert code == 2
        assert "config.toml" in err or "address" in err

    @ON_SQLITE
    def test_settings_survive_their_file_and_their_flags(self, settings):
        settings.save()
        parser = argparse.ArgumentParser()
        Settings.add_arguments(parser)

        assert Settings.load(settings.dir) == settings
        given = parser.parse_args(settings.to_arguments())
        assert Settings.from_arguments(given) == settings

    def test_no_folder_is_said_with_the_way_out(self, tmp_path, capsys):
        code = main(["device", "list", "--dir", str(tmp_path / "nowhere")])

        assert code == 2
        assert "edgec-fleet init" in capsys.readouterr().err

    @ON_SQLITE
    def test_the_folder_may_come_from_the_environment(self, settings, monkeypatch, capsys):
        monkeypatch.setenv("EDGEC_FLEET_DIR", str(settings.dir))

        assert main(["device", "list"]) == 0


class TestPeople:
    def test_users(self, run, say):
        made = say("user", "add", "ada", "--role", "operator")
        assert len(made["password"]) >= 16
        assert say("user", "role", "ada", "releaser")["role"] == "releaser"
        assert say("user", "disable", "ada")["disabled_at"]
        assert say("user", "enable", "ada")["disabled_at"] is None
        assert say("user", "password", "ada")["password"] != made["password"]
        assert "ada" in [user["name"] for user in say("user", "list")["users"]]
        assert run("user", "add", "ada", "--role", "viewer")[0] == 1
        assert run("user", "role", "nobody", "viewer")[0] == 2

    def test_tokens(self, server, operators, run, say):
        api = say("token", "api", "--user", "admin", "--role", "viewer", "--days", "1")
        headers = {"Authorization": f"Bearer {api['token']}"}
        assert operators.get("/v1/session", headers=headers).json["role"] == "viewer"

        device = say("token", "create", "--uses", "3", "--tag", "site=berlin", "--note", "shelf")
        assert device["token"].startswith("edgec1.")
        listed = say("token", "list")
        assert [t["tags"] for t in listed["enrolment"]] == [{"site": "berlin"}]
        assert api["id"] in [t["id"] for t in listed["api"]]

        for token in (api, device):
            assert say("token", "revoke", token["id"])["revoked"]
        assert operators.get("/v1/session", headers=headers).status_code == 401
        assert run("token", "revoke", "nothing")[0] == 2

    @ON_SQLITE
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--hours", "0"],
            ["--hours", "nan"],
            ["--hours", "1e99"],
            ["--uses", "0"],
            ["--tag", "x"],
            ["--tag", "A B=c"],
        ],
    )
    def test_bad_tokens_are_refused(self, run, arguments):
        code, out, err = run("token", "create", *arguments)

        assert (code, out) == (2, "")
        assert err.startswith("edgec-fleet: ")


class TestRegistryAndFleet:
    def test_a_release_from_publish_to_withdrawal(self, run, say, bundles):
        made = say("release", "publish", bundles.make(), bundles.make(profile="rpi5"))
        assert (made["state"], made["sign_with"]) == ("published", None)
        assert [r["version"] for r in say("release", "list")["releases"]] == ["1.0.0"]
        assert len(say("release", "show", "digits", "1.0.0")["variants"]) == 2
        assert run("release", "sign", "digits", "1.0.0")[0] == 1
        gone = say("release", "withdraw", "digits", "1.0.0", "--reason", "wrong")
        assert (gone["state"], gone["withdrawn_reason"]) == ("withdrawn", "wrong")
        assert run("release", "show", "digits", "2.0.0")[0] == 2

    def test_a_file_that_is_no_bundle_is_exit_code_2(self, run, tmp_path):
        (tmp_path / "x.edgeb").write_bytes(b"nothing")

        for path in (tmp_path / "x.edgeb", tmp_path / "missing.edgeb"):
            code, _, err = run("release", "publish", path)
            assert code == 2
            assert str(path) in err

    def test_acceptance(self, run, say, tmp_path):
        (tmp_path / "a.npz").write_bytes(b"PK\x03\x04")
        put = ("acceptance", "set", "digits", "--data", tmp_path / "a.npz")

        assert say(*put, "--minimum", "0.9")["acceptance_minimum"] == 0.9
        assert [m["name"] for m in say("acceptance", "list")["models"]] == ["digits"]
        assert say("acceptance", "remove", "digits")["acceptance_sha256"] is None
        assert run(*put)[0] == 2
        assert run(*put, "--minimum", "7")[0] == 2

    @pytest.fixture
    def fleet(self, server: Server, say, bundles):
        say("release", "publish", bundles.make())
        with server.db.write() as session:
            for number in range(3):
                session.add(
                    Device(
                        id=f"cam-{number}",
                        tenant="default",
                        profiles=["rpi4"],
                        online=number > 0,
                        models={"digits": {"active": {"version": "0.9.0"}}},
                    )
                )

    def test_devices(self, run, say, fleet):
        assert len(say("device", "list")["devices"]) == 3
        assert len(say("device", "list", "--online")["devices"]) == 2
        assert say("device", "tag", "cam-1", "site=berlin")["tags"] == {"site": "berlin"}
        assert [d["id"] for d in say("device", "list", "--tag", "site=berlin")["devices"]] == [
            "cam-1"
        ]
        page = say("device", "list", "--limit", "2")
        assert (page["next"], page["total"]) == ("cam-1", 3)
        assert "digits 0.9.0" in run("device", "show", "cam-1")[1]
        assert say("device", "revoke", "cam-1", "--reason", "stolen")["revoked_reason"] == "stolen"
        assert run("device", "revoke", "cam-1")[0] == 1
        assert run("device", "show", "cam-9")[0] == 2

    def test_rollouts(self, server, run, say, fleet, tmp_path):
        made = say("rollout", "create", "digits", "1.0.0")
        assert made["state"] == "running"
        assert say("rollout", "pause", made["id"], "--reason", "lunch")["state"] == "paused"
        assert say("rollout", "resume", made["id"])["state"] == "running"
        assert say("rollout", "next", made["id"])["groups"][0]["state"] == "running"
        code, out, _ = run("rollout", "show", made["id"])
        assert code == 0
        assert "lunch" in out
        assert say("rollout", "abort", made["id"])["counts"] == {"cancelled": 3}
        assert [r["state"] for r in say("rollout", "list")["rollouts"]] == ["aborted"]
        assert run("rollout", "pause", made["id"])[0] == 1
        with server.db.read() as session:
            assert {u.state for u in session.query(DeviceUpdate)} == {"cancelled"}

        groups = tmp_path / "groups.json"
        groups.write_text('[{"name": "two", "devices": ["cam-1", "cam-2"]}]')
        again = say("rollout", "create", "digits", "1.0.0", "--groups", groups)
        assert [u["device"] for u in again["updates"]] == ["cam-1", "cam-2"]

    @pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '[{"name": "a"}]'])
    @ON_SQLITE
    def test_bad_groups_are_refused(self, run, fleet, tmp_path, text):
        (tmp_path / "groups.json").write_text(text)

        code, _, err = run(
            "rollout", "create", "digits", "1.0.0", "--groups", tmp_path / "groups.json"
        )

        assert code == 2, err


class TestAudit:
    def test_the_trail_names_the_person_at_the_machine(self, say):
        say("user", "add", "ada", "--role", "viewer")

        last = say("audit", "list", "--limit", "1")["entries"][0]

        assert (last["action"], last["object_id"]) == ("user.create", "ada")
        assert last["actor_name"].startswith("cli:")

    def test_verify_finds_what_was_changed_behind_the_server(self, server, run, say):
        assert say("audit", "verify")["ok"]
        from sqlalchemy import text

        with server.db.write() as session:
            if server.db.engine.dialect.name == "sqlite":
                session.execute(text("DROP TRIGGER audit_no_update"))
            else:
                session.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_append_only"))
            session.execute(text("UPDATE audit SET actor_name = 'somebody else' WHERE seq = 2"))

        code, out, _ = run("audit", "verify")

        assert code == 1
        assert "entry 2 was changed" in out


@ON_SQLITE
def test_an_old_database_is_named_and_upgraded(settings, run):
    from edgec_fleet.db import Database, migrate

    database = Database(settings.database_url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
        for table in reversed(Base.metadata.sorted_tables):
            table.drop(connection)
    migrate.upgrade(database, "0001")
    database.close()

    code, _, err = run("device", "list")

    assert code == 2
    assert "edgec-fleet upgrade" in err
    assert run("upgrade")[0] == 0
    assert run("device", "list")[0] == 0
