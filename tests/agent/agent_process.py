"""`edgec-agent` as real processes, and programs that call its models."""

import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

from fleet_world import digits

from edgec_agent.client import AgentClient

AGENT = (sys.executable, "-m", "edgec_agent.cli")
QUICK = [
    "--probation-samples=40",
    "--probation-seconds=240",
    "--set=probation.latency_factor=1e6",
    "--set=probation.minimum_samples=10",
    "--set=link.backoff_s=0.1",
    "--set=link.longest_backoff_s=0.5",
    "--set=retry.base_s=0.1",
    "--set=transfer.stall_s=30",
    "--set=transfer.stalls=2",
    "--set=testing.runs=3",
    "--set=telemetry_s=0.5",
]


def agent(*arguments):
    """Run one command; return (exit code, stdout, stderr)."""
    done = subprocess.run(
        [*AGENT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class Running:
    """An agent's process and its local API."""

    def __init__(self, folder, *arguments, http="127.0.0.1:0"):
        self.folder = folder
        self.log = (folder / "agent.log").open("a+")
        self.process = subprocess.Popen(
            [*AGENT, "run", "--dir", str(folder), f"--http={http}", *QUICK, *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        line = self.process.stdout.readline()
        found = re.fullmatch(r"edgec-agent ready on (\S+)\n", line)
        assert found, line + self.said()
        self.address = found[1]

    def said(self):
        return (self.folder / "agent.log").read_text()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(120)
        self.close()
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


@contextmanager
def running(folder, *arguments, **more):
    one = Running(folder, *arguments, **more)
    try:
        yield one
    finally:
        one.close()


@contextmanager
def traffic(address, model="digits"):
    """Call the model all the while; yield (versions seen, failures)."""
    images = digits()[0]
    versions, failures, stop = [], [], threading.Event()

    def work():
        with AgentClient(address) as client:
            at = 0
            while not stop.is_set():
                try:
                    found = client.infer(model, {"image": images[at : at + 1]})
                    versions.append(found.version)
                except Exception as error:
                    failures.append(error)
                at = (at + 1) % len(images)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield versions, failures
    finally:
        stop.set()
        thread.join()


def committed(gateway, version_manifest):
    return lambda: any(
        event.phase == "committed" and event.manifest == version_manifest.digest
        for event in gateway.events()
    )
