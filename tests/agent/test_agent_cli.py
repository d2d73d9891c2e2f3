"""`edgec-agent` as a person uses it: real processes, a real broker, real TLS."""

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from agent_process import agent, committed, running, traffic
from fleet_world import BAD, DIGITS, V1, V2, digits, patch, plain_server, until, write_identity

from edgec_agent.cli import main
from edgec_agent.client import AgentClient
from edgec_agent.config import AgentConfig, load_config
from edgec_agent.folder import is_running
from edgec_bundle.delta import device_formats

COMMANDS = ("enroll", "run", "status", "doctor", "install", "infer", "rollback", "reset")


# -- usage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])

    assert left.value.code == 0
    assert f"example: edgec-agent {command}" in capsys.readouterr().out


DOCS = Path(__file__).parents[2] / "docs"


def test_every_command_and_flag_is_documented(capsys):
    text = (DOCS / "reference" / "cli-edgec-agent.md").read_text()
    for command in COMMANDS:
        assert f"## edgec-agent {command}" in text
        with pytest.raises(SystemExit):
            main([command, "--help"])
        for flag in set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}:
            assert flag in text or flag == "--verbose", (command, flag)


def test_the_documented_configuration_is_the_default(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", (DOCS / "agent.md").read_text(), re.DOTALL)
    (tmp_path / "agent.toml").write_text(block)

    documented = load_config(tmp_path, {"profiles": ()})

    assert documented == AgentConfig()
    for key in keys_of(dataclasses.asdict(AgentConfig())):
        assert re.search(rf"^#? ?{key} = ", block, re.MULTILINE), key


def keys_of(table):
    for key, value in table.items():
        yield from keys_of(value) if isinstance(value, dict) else [key]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["fly"], "invalid choice"),
        (["run", "--probation-samples", "many"], "invalid int value"),
        (["enroll", "--server", "http://x"], "--token"),
        (["reset"], "required"),
        (["infer"], "--input"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)

    said = capsys.readouterr().err
    assert left.value.code == 2
    assert words in said
    assert "--help" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "not enrolled"),
        (["status"], "enrol first"),
        (["rollback", "--model", "digits"], "not enrolled"),
        (["infer", "--input", "x.npz"], "no agent's state"),
        (["install", "no-such-pack"], "no such file"),
        (["reset", "--all"], "--yes"),
        (["reset", "--model", "digits"], "not enrolled"),
        (["run", "--set", "nonsense=1"], "unknown key nonsense"),
        (["run", "--set", "nonsense"], "expected NAME=VALUE"),
        (["run", "--set", "probation.seconds=x"], "probation.seconds: expected a number"),
        (["run", "--profile", "no-such-board"], "no-such-board"),
        (["enroll", "--server", "http://127.0.0.1:1", "--token", "x", "--tag", "t"], "NAME=VALUE"),
        (["enroll", "--server", "http://127.0.0.1:1", "--token", "x", "--device", "A b"], "not a"),
    ],
)
def test_what_a_person_got_wrong_is_said_without_a_traceback(tmp_path, capsys, arguments, words):
    code = main([*arguments, "--dir", str(tmp_path / "device")])

    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert "Traceback" not in said


def test_a_server_that_cannot_be_reached_is_exit_code_4(tmp_path, blob_server, capsys):
    where = ("--server", "http://127.0.0.1:1", "--dir", str(tmp_path / "device"))
    code = main(["enroll", *where, "--token", blob_server.token()])

    assert code == 4
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_a_used_token_is_exit_code_1(tmp_path, blob_server, capsys):
    token = blob_server.token()
    with plain_server({"/v1/enrolment": blob_server.enrolment()}) as url:
        common = ["enroll", "--server", url, "--token", token]
        first = main([*common, "--dir", str(tmp_path / "one"), "--json"])
        second = main([*common, "--dir", str(tmp_path / "two")])

    said = capsys.readouterr()
    assert (first, second) == (0, 1)
    assert json.loads(said.out)["device"] == "camera-1"
    assert "used before" in said.err


# -- the whole walk ----------------------------------------------------------------------------


def test_enrol_roll_out_update_refuse_and_roll_back(tmp_path, fleet, blob_server, broker, gateway):
    blob_server.mqtt_port = broker.port
    device = tmp_path / "device"
    with plain_server({"/v1/enrolment": blob_server.enrolment()}) as url:
        code, _, said = agent(
            "enroll", "--server", url, "--token", blob_server.token(), "--dir", device
        )
    assert code == 0, said
    first, second, bad = fleet.release(*V1), fleet.release(*V2), fleet.release(*BAD)
    fleet.offer_patch(first, second, patch(V1[0], V2[0]))

    with running(device) as one:
        hello = until(lambda: gateway.of("hello"), what="hello")[0]
        assert "generic-x86_64" in hello.profiles
        assert hello.delta_formats == device_formats()
        gateway.send(fleet.desired(first, http=blob_server.url))
        until(committed(gateway, first), what="1.0.0")

        with traffic(one.address) as (versions, failures):
            gateway.send(fleet.desired(second, http=blob_server.url, rollout="2"))
            until(committed(gateway, second), what="1.1.0")
            gateway.send(fleet.desired(bad, http=blob_server.url, rollout="3"))
            until(
                lambda: any(event.phase == "rolled_back" for event in gateway.events()),
                what="the refusal",
            )
            state = until(
                lambda: next((m for m in reversed(gateway.of("state")) if m.models), None)
            )

        assert failures == []
        assert {"1.0.0", "1.1.0"} <= set(versions)
        assert versions[-1] == "1.1.0"
        moved = next(
            event.evidence["transfer"]
            for event in gateway.events()
            if event.manifest == second.digest and "transfer" in event.evidence
        )
        assert moved["source"] == "mqtt"
        rolled_back = next(e for e in gateway.events() if e.phase == "rolled_back")
        assert rolled_back.rollout == "3"
        assert rolled_back.evidence["probation"]["agreement"] < 0.5
        assert state.online
        until(lambda: gateway.of("telemetry"), what="telemetry")
        numbers = [(event.boot_id, event.seq) for event in gateway.events()]
        assert numbers == sorted(set(numbers), key=numbers.index)
        assert [seq for _, seq in numbers] == list(range(1, len(numbers) + 1))

        code, out, _ = agent("status", "--dir", device, "--json")
        found = json.loads(out)
        assert code == 0
        assert found["running"]
        assert found["address"] == one.address
        assert found["models"]["digits"]["active"]["version"] == "1.1.0"
        assert found["models"]["digits"]["phase"] == "rolled_back"

        assert one.stop() == 0
    assert until(lambda: not gateway.of("state")[-1].online, what="good-bye")
    assert "Traceback" not in (device / "agent.log").read_text()


def test_it_serves_without_a_network_and_catches_up_later(
    enrolled, fleet, blob_server, gateway, broker
):
    first, second = fleet.release(*V1), fleet.release(*V2)
    with running(enrolled) as one:
        gateway.send(fleet.desired(first, http=blob_server.url))
        until(committed(gateway, first))
        one.stop(signal.SIGKILL)

    broker.stop()
    with running(enrolled) as one:
        with traffic(one.address) as (versions, failures):
            until(lambda: len(versions) > 20)
            broker.start()
            until(lambda: gateway.is_listening, what="the gateway")
            gateway.send(fleet.desired(second, http=blob_server.url))
            until(committed(gateway, second), what="1.1.0")
        assert failures == []
        assert one.stop(signal.SIGINT) == 0


def test_https_takes_over_when_the_broker_serves_no_blocks(enrolled, fleet, blob_server, gateway):
    first = fleet.release(*V1)
    gateway.silent = True

    with running(enrolled, "--set=transfer.stall_s=1"):
        gateway.send(fleet.desired(first, http=blob_server.url))
        until(committed(gateway, first))

    verifying = next(event for event in gateway.events() if event.phase == "verifying")
    assert "http" in verifying.evidence["transfer"]["source"]


def test_a_folder_belongs_to_one_agent_at_a_time(enrolled):
    with running(enrolled):
        code, _, said = agent("run", "--dir", enrolled, "--http", "127.0.0.1:0")

    assert code == 1
    assert "running on" in said
    assert not is_running(enrolled)


@pytest.mark.parametrize("http", ["nonsense", "127.0.0.1:99999", "0.0.0.0:0"])
def test_an_address_that_must_not_be_used_is_wrong_usage(enrolled, http):
    code, _, said = agent("run", "--dir", enrolled, "--http", http)

    assert code == 2
    assert "Traceback" not in said


def test_it_serves_on_a_unix_socket(enrolled, tmp_path):
    path = Path(os.path.relpath(tmp_path)) / "a.sock"

    with running(enrolled, http=f"unix:{path}") as one, AgentClient(one.address) as client:
        assert client.status()["device"] == "camera-1"


# -- packs, and what a person does at the device -----------------------------------------------


@pytest.fixture
def offline(tmp_path, certificates, fleet):
    """An enrolled device whose server does not exist."""
    return write_identity(tmp_path / "device", certificates, fleet.root)


def test_a_pack_installs_what_its_proof_allows(offline, fleet, tmp_path):
    first = fleet.release(*V1)
    pack = fleet.write_pack(tmp_path / "pack", fleet.desired(first))

    code, out, said = agent("install", pack, "--dir", offline, "--json")

    assert code == 0, said
    assert json.loads(out) == {"assignment": 1, "models": {"digits": "staged"}}
    with running(offline) as one, AgentClient(one.address) as client:
        until(client.is_ready, what="the model")
        images, labels = digits()
        found = client.infer("digits", {"image": images[:50]})
        accuracy = np.mean(found.outputs["probabilities"].argmax(1) == labels[:50])
        assert accuracy > 0.9


def test_a_pack_is_installed_by_the_running_agent(offline, fleet, tmp_path):
    first = fleet.release(*V1)
    pack = fleet.write_pack(tmp_path / "pack", fleet.desired(first))

    with running(offline) as one:
        code, _, said = agent("install", pack, "--dir", offline)
        with AgentClient(one.address) as client:
            until(client.is_ready, what="the model")

    assert code == 0, said


def test_a_pack_for_another_device_is_refused(offline, fleet, tmp_path):
    first = fleet.release(*V1)
    pack = fleet.write_pack(tmp_path / "pack", fleet.desired(first, device="camera-2"))

    code, _, said = agent("install", pack, "--dir", offline)

    assert code == 1
    assert "camera-2" in said
    assert "Traceback" not in said


def test_a_pack_with_a_part_missing_says_which(offline, fleet, tmp_path):
    first = fleet.release(*V1)
    pack = fleet.write_pack(tmp_path / "pack", fleet.desired(first))
    (pack / "blobs" / first.entry("model").sha256).unlink()

    code, _, said = agent("install", pack, "--dir", offline)

    assert code == 4
    assert "not in the pack" in said


def installed(offline, fleet, tmp_path, *releases):
    for number, release in enumerate(releases):
        desired = fleet.desired(fleet.release(*release), rollout=str(number))
        pack = fleet.write_pack(tmp_path / f"pack{number}", desired)
        assert agent("install", pack, "--dir", offline)[0] == 0
        with running(offline, "--probation-seconds=0.1"):
            until(lambda: "committed" in agent("status", "--dir", offline)[1], what="the commit")


def test_infer_status_rollback_and_reset(offline, fleet, tmp_path):
    installed(offline, fleet, tmp_path, V1, V2)
    sample = tmp_path / "sample.npz"
    np.savez(sample, inputs=digits()[0][:3], labels=digits()[1][:3])

    code, out, said = agent("infer", "--dir", offline, "--input", sample, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0, said
    assert [line["label"] for line in lines] == [str(label) for label in digits()[1][:3]]
    assert lines[0]["version"] == "1.1.0"
    assert len(lines[0]["outputs"]["probabilities"]) == 10

    code, out, _ = agent("status", "--dir", offline)
    assert code == 0
    assert "not running" in out
    assert "digits: 1.1.0 (before: 1.0.0), committed" in out

    code, out, said = agent("rollback", "--dir", offline, "--model", "digits")
    assert code == 0, said
    assert "1.0.0" in out
    code, _, said = agent("rollback", "--dir", offline, "--model", "digits")
    assert code == 2
    assert "no previous version" in said

    code, _, said = agent("reset", "--dir", offline, "--model", "digits")
    assert code == 0, said
    code, out, _ = agent("status", "--dir", offline, "--json")
    assert json.loads(out)["models"]["digits"]["phase"] == "offered"

    assert agent("reset", "--dir", offline, "--all", "--yes")[0] == 0
    assert agent("status", "--dir", offline)[0] == 2


def test_rollback_while_it_runs(offline, fleet, tmp_path):
    installed(offline, fleet, tmp_path, V1, V2)

    with running(offline) as one:
        with traffic(one.address) as (versions, failures):
            until(lambda: versions)
            code, out, said = agent("rollback", "--dir", offline, "--model", "digits", "--json")
            until(lambda: versions[-1] == "1.0.0")
        assert one.stop() == 0

    assert code == 0, said
    assert json.loads(out)["version"] == "1.0.0"
    assert failures == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("garbage.npz", b"PK\x03\x04garbage"),
        ("missing.npz", None),
        ("no-image.png", b"not an image"),
    ],
)
def test_an_input_that_cannot_be_read_is_exit_code_2(offline, fleet, tmp_path, name, content):
    pack = fleet.write_pack(tmp_path / "pack", fleet.desired(fleet.release(*V1)))
    assert agent("install", pack, "--dir", offline)[0] == 0
    with running(offline):
        until(lambda: "committed" in agent("status", "--dir", offline)[1])
    if content is not None:
        (tmp_path / name).write_bytes(content)

    code, _, said = agent("infer", "--dir", offline, "--input", tmp_path / name)

    assert code == 2
    assert "Traceback" not in said


def test_doctor_finds_what_is_wrong(offline, fleet, tmp_path):
    code, out, _ = agent("doctor", "--dir", offline, "--json")
    findings = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {"configuration", "runtimes", "folder", "state", "identity", "server"} == {
        one["check"] for one in findings
    }
    assert any(one["level"] == "warning" for one in findings if one["check"] == "server")

    pack = fleet.write_pack(tmp_path / "pack", fleet.desired(fleet.release(*V1)))
    assert agent("install", pack, "--dir", offline)[0] == 0
    with running(offline):
        until(lambda: "committed" in agent("status", "--dir", offline)[1])
    model = next((offline / "blobs").glob("??/*"))
    model.write_bytes(b"\0" + model.read_bytes()[1:])

    code, out, _ = agent("doctor", "--dir", offline)
    assert code == 1
    assert "failure" in out


def test_the_models_of_the_walk_are_there():
    assert {path.name for path in DIGITS.glob("*.onnx")} >= {V1[0], V2[0], BAD[0]}
