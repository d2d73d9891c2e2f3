"""The demo's fleet: one server, three agents with both runtimes, and a cable that can be cut."""

import contextlib
import http.client
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from api import Api
from link import Link
from programs import DemoError, Program, call, call_json, free_ports


@dataclass(frozen=True)
class Device:
    """An agent of the demo."""

    name: str
    profile: str
    port: int
    folder: Path
    program: Program

    def is_ready(self) -> bool:
        """Return whether its inference API answers."""
        return _answers(self.port, "/v2/health/live")


class Fleet:
    """Starts a server and three agents below `folder`; ends them all."""

    def __init__(
        self, folder: Path, http_port: int | None = None, broker: str | None = None
    ) -> None:
        self.folder = folder
        self.server_dir = folder / "fleet"
        ports = free_ports(6)
        self.http_port = http_port or ports[0]
        self.devices_port, self.mqtt_port = ports[1], ports[2]
        self._agent_ports = ports[3:]
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.devices: list[Device] = []
        self._programs: list[Program] = []
        self._links: list[Link] = []
        self.login: dict[str, str] = {}
        self.broker = broker or ""

    def start_server(self) -> None:
        """Make the server's folder and start all its parts."""
        made = call_json(
            "edgec-fleet",
            "init",
            "--dir",
            self.server_dir,
            *("--http", f"127.0.0.1:{self.http_port}"),
            *("--devices", f"127.0.0.1:{self.devices_port}"),
            *("--mqtt", f"127.0.0.1:{self.mqtt_port}"),
        )
        self.login = {"name": made["user"], "password": made["password"]}
        log = self.folder / "fleet.log"
        wanted = ("--broker", self.broker) if self.broker else ()
        program = Program(
            "edgec-fleet", log, "edgec-fleet", "serve", "--dir", self.server_dir, *wanted
        )
        self._programs.append(program)
        program.wait_for(lambda: _answers(self.http_port, "/v1/health"), 180)
        program.wait_for(lambda: "ready; logs in" in log.read_text(errors="replace"), 180)
        said = re.search(r"broker ready: \S+ (.+)", log.read_text(errors="replace"))
        self.broker = said.group(1) if said else "unknown"

    def api(self) -> Api:
        """Return the REST API with a fresh token of the first user."""
        made = call_json(
            "edgec-fleet", "token", "api", "--dir", self.server_dir, "--user", self.login["name"]
        )
        return Api(self.url, made["token"])

    def add_agent(self, name: str, profile: str, *, through_link: bool = False) -> None:
        """Enrol an agent with a one-time token and start it."""
        token = call_json("edgec-fleet", "token", "create", "--dir", self.server_dir)["token"]
        folder = self.folder / name
        call(
            "edgec-agent",
            "enroll",
            *("--server", self.url, "--token", token, "--dir", folder),
            *("--device", name, "--profile", profile),
        )
        if through_link:
            self._lay_cable(folder)
        port = self._agent_ports[len(self.devices)]
        self.devices.append(self._run_agent(name, profile, port, folder))

    def start_agent(self, device: Device) -> Device:
        """Start an agent again whose program has ended."""
        return self._run_agent(device.name, device.profile, device.port, device.folder)

    def _run_agent(self, name: str, profile: str, port: int, folder: Path) -> Device:
        program = Program(
            name,
            self.folder / f"{name}.log",
            "edgec-agent",
            "run",
            *("--dir", folder, "--http", f"127.0.0.1:{port}"),
            *("--probation-samples", "100", "--probation-seconds", "120"),
            # A busy machine must not pass for the release's fault.
            *("--set", "probation.latency_slack_ms=2000"),
            *("--set", "telemetry_s=2", "--set", "link.longest_backoff_s=2"),
        )
        self._programs.append(program)
        return Device(name, profile, port, folder, program)

    def wait_for_agents(self) -> None:
        """Return when every agent's inference API answers."""
        for device in self.devices:
            device.program.wait_for(device.is_ready, 120)

    def cut(self) -> None:
        """Cut the cable of the agent behind the link."""
        for link in self._links:
            link.cut()

    def mend(self) -> None:
        """Mend the cable."""
        for link in self._links:
            link.mend()

    def stop_server(self) -> None:
        """Stop the server with all its parts; agents go on."""
        self._programs[0].stop()

    def stop(self) -> None:
        """Stop everything, agents first."""
        for program in reversed(self._programs):
            program.stop()
        for link in self._links:
            link.close()

    def _lay_cable(self, folder: Path) -> None:
        """Lead the agent's connections through relays: its network, for the demo to cut."""
        mqtt = Link(("127.0.0.1", self.mqtt_port))
        blobs = Link(("127.0.0.1", self.devices_port))
        self._links += [mqtt, blobs]
        path = folder / "identity" / "identity.json"
        identity = json.loads(path.read_text())
        identity["mqtt_port"] = mqtt.port
        identity["devices_url"] = f"https://127.0.0.1:{blobs.port}"
        path.write_text(json.dumps(identity))


def _answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        finally:
            connection.close()
    return False


def seconds_since(start: float) -> float:
    """Return the seconds since `start` of time.monotonic()."""
    return time.monotonic() - start


__all__ = ["DemoError", "Device", "Fleet", "seconds_since"]
