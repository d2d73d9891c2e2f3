"""The supervisor with all real parts: ready lines, restarts, clean stops, no orphans."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from free_ports import free_port
from mqtt_clients import LONG_S, wait_for

from edgec_fleet.errors import ConflictError
from edgec_fleet.serve import (
    PartSpec,
    Supervisor,
    check_ports,
    folder_lock,
    parts,
    with_free_ports,
)
from edgec_fleet.settings import Address, Settings

EDGEC_FLEET = "import sys; from edgec_fleet.cli import main; sys.exit(main())"
PARTS = ("broker", "web", "devices", "engine", "gateway")


class Serving:
    """`edgec-fleet serve` as a process of its own."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings, self.log = settings, log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", EDGEC_FLEET, "serve", "--dir", str(settings.dir)],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        wait_for(self._ready, "all parts to be ready")

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.said()
        return "\nready; logs in" in self.said()

    def said(self) -> str:
        return self.log.read_text()

    def pids(self, *words: str) -> list[int]:
        """Return processes whose command line names this folder and all `words`."""
        return [
            pid
            for pid, line in commands().items()
            if all(word in line for word in (str(self.settings.dir), *words))
            and pid != self.process.pid
        ]

    def family(self) -> set[int]:
        """Return every process below the supervisor."""
        found, grew = {self.process.pid}, True
        while grew:
            more = {pid for pid, parent in parents().items() if parent in found} - found
            found |= more
            grew = bool(more)
        return found - {self.process.pid}


def commands() -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found[int(entry.name)] = line
    return found


def parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                found[int(entry.name)] = int(fields[1])
    return found


@pytest.fixture
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    template: Settings = request.getfixturevalue("sqlite_template").settings
    shutil.copytree(template.dir, tmp_path / "fleet")
    settings = replace(
        template,
        dir=tmp_path / "fleet",
        http=Address("127.0.0.1", free_port()),
        devices=Address("127.0.0.1", free_port()),
        mqtt=Address("127.0.0.1", free_port()),
    )
    settings.save()
    made = Serving(settings, tmp_path / "serve.log")
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.wait()


def health(settings: Settings) -> dict[str, object]:
    with urllib.request.urlopen(f"http://{settings.http}/v1/health", timeout=LONG_S) as answer:
        found: dict[str, object] = json.load(answer)
        return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_every_part_gets_ready_is_restarted_when_killed_and_stops_at_sigterm(
    serving: Serving,
) -> None:
    serving.wait_ready()
    said = serving.said()
    for part in PARTS:
        assert f"{part} ready: " in said
    assert health(serving.settings)["ok"] is True

    (engine,) = serving.pids("edgec_fleet.rollout")
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: serving.said().count("engine ready: ") == 2, "the engine to be back")
    assert "engine ended (signal SIGKILL); it is started again in 1 s" in serving.said()

    family = serving.family()
    assert len(family) >= len(PARTS)
    serving.process.send_signal(signal.SIGTERM)

    assert serving.process.wait(LONG_S) == 0
    assert serving.said().endswith("stopped\n")
    wait_for(lambda: not family & parents().keys(), "every process to be gone")
    for part in PARTS:
        assert (serving.settings.dir / "logs" / f"{part}.log").stat().st_size > 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_supervisor_leaves_no_orphan(serving: Serving) -> None:
    serving.wait_ready()
    family = serving.family()
    assert len(family) >= len(PARTS)

    serving.process.kill()

    wait_for(lambda: not family & parents().keys(), "every process to be gone")


def test_port_that_is_taken_ends_the_start_with_the_reason(
    serving: Serving, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = replace(serving.settings, mqtt=Address("127.0.0.1", taken.getsockname()[1]))
        said: list[str] = []
        (broker, *_) = parts(busy)
        code = Supervisor(busy, [broker], said.append).run()

    assert code == 1
    assert any("broker could not be started" in line for line in said)


def test_part_that_dies_before_it_is_ready_is_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    spec = PartSpec("ghost", ("edgec_fleet.no_such_module",))

    code = Supervisor(Settings(dir=tmp_path), [spec], said.append).run()

    assert code == 1
    assert sum("it is started again" in line for line in said) == 2
    assert any("no_such_module" in line for line in said)
    assert (tmp_path / "logs" / "ghost.log").exists()


def test_ports_left_open_are_chosen_and_differ(tmp_path: Path) -> None:
    nowhere = Address("127.0.0.1", 0)

    chosen = with_free_ports(Settings(dir=tmp_path, http=nowhere, mqtt=nowhere))

    assert chosen.http.port > 0
    assert chosen.mqtt.port > 0
    assert chosen.devices == Settings(dir=tmp_path).devices


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    http, devices, mqtt = (Address("127.0.0.1", free_port()) for _ in range(3))
    settings = Settings(tmp_path, http=http, devices=devices, mqtt=mqtt)
    check_ports(settings)

    with socket.create_server((settings.devices.host, settings.devices.port)):
        with pytest.raises(ConflictError, match=f"--devices: something else.*{settings.devices}"):
            check_ports(settings)
        check_ports(replace(settings, devices=settings.http))


def test_a_broker_of_ones_own_is_not_started(tmp_path: Path) -> None:
    names = [part.name for part in parts(Settings(dir=tmp_path, broker="mqtts://broker.example"))]

    assert names == ["web", "devices", "engine", "gateway"]


def test_one_server_at_a_time_per_folder(tmp_path: Path) -> None:
    refused = pytest.raises(ConflictError, match="another process serves")

    with folder_lock(tmp_path), refused, folder_lock(tmp_path):
        pass
