"""What the demo does, in order, checking each claim as it goes."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fleet import Fleet
from load import Load
from programs import DemoError, call, call_json, end_calls, wait_until

from edgec_bundle.npz import read_npz

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "models" / "digits"
ONNX, TFLITE = "generic-x86_64", "generic-x86_64-tflite"
GUARDED, UNGUARDED = "digits", "digits-open"  # model lines with and without an acceptance set
CANARY, SECOND, CABLED = "agent-1", "agent-2", "agent-3"
RELEASES = {"1.0.0": 1, "1.1.0": 2, "1.2.0-bad": 3}


@dataclass
class Facts:
    """What was measured on the way; the final table shows it."""

    accuracy: dict[str, float] = field(default_factory=dict)  # "version target" -> fraction
    transferred: int = 0
    full: int = 0
    seconds_to_all: float = 0.0
    seconds_cut: float = 0.0
    refusals: list[tuple[str, str]] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    broker: str = ""


class Workshop:
    """Compiles in the background, in order, so that the fleet does not wait for all of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, list[Path]] = {}
        self._error: BaseException | None = None
        self.accuracy: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="compile", daemon=True)
        self._thread.start()

    def bundles(self, name: str, version: str) -> list[Path]:
        """Wait for a release's bundles and return their folders. Raises DemoError."""
        key = f"{name} {version}"
        wait_until(lambda: key in self._made, 480, f"{key} to be compiled", self._check)
        return self._made[key]

    def _run(self) -> None:
        try:
            for name, version, targets in (
                (GUARDED, "1.0.0", (ONNX, TFLITE)),
                (GUARDED, "1.1.0", (ONNX, TFLITE)),
                (UNGUARDED, "1.0.0", (ONNX,)),
                (GUARDED, "1.2.0-bad", (ONNX,)),
                (UNGUARDED, "1.2.0-bad", (ONNX,)),
            ):
                self._compile(name, version, targets)
        except BaseException as error:  # handed to whoever waits
            self._error = error

    def _compile(self, name: str, version: str, targets: tuple[str, ...]) -> None:
        out = self._folder / f"{name}-{version}"
        made = call_json(
            "edgec",
            "compile",
            DIGITS / f"{version}.onnx",
            *(word for target in targets for word in ("--target", target)),
            *("--name", name, "--version", version, "--release", str(RELEASES[version])),
            *("--preprocessing", DIGITS / "steps.toml", "--labels", DIGITS / "labels.txt"),
            *("--calibration", DIGITS / "calibration.npz"),
            *("--evaluation", DIGITS / "evaluation.npz"),
            *("--precision", "int8", "--max-accuracy-drop", "0.02", "--out", out),
        )
        rows = made if isinstance(made, list) else [made]
        for row in rows:
            self.accuracy[f"{version} {row['target']}"] = row["accuracy"]["compiled"]
        self._made[f"{name} {version}"] = [Path(row["bundle"]) for row in rows]

    def _check(self) -> None:
        if self._error is not None:
            raise DemoError(str(self._error)) from self._error


class Story:
    """The demo's acts. `say` prints a line of progress."""

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        http_port: int | None,
        broker: str | None = None,
    ) -> None:
        self.folder = folder
        self.fleet = Fleet(folder, http_port, broker)
        self.facts = Facts()
        self._say = say
        self._loads: list[Load] = []
        self._borrows = False
        images = read_npz((DIGITS / "evaluation.npz").read_bytes(), 64 << 20)["inputs"]
        self._images = np.asarray(images, dtype=np.uint8)

    def run(self) -> None:
        """Play every act. Raises DemoError at the first thing that does not hold."""
        self.set_up()
        self.ship_a_better_release()
        self.refuse_a_bad_release()
        self.roll_a_bad_release_back()
        self.refuse_a_flipped_byte()
        self.finish()

    def set_up(self, workshop: Workshop | None = None) -> None:
        """Compile 1.0.0 for two targets, start the fleet, roll 1.0.0 out, begin the load."""
        self._say("compiling digits 1.0.0 for two targets; starting the fleet server meanwhile")
        self._borrows = workshop is not None
        self._workshop = workshop or Workshop(self.folder)
        self.fleet.start_server()
        self.facts.broker = self.fleet.broker
        self.api = self.fleet.api()
        self._say(f"fleet server is up, broker: {self.fleet.broker}; enrolling three agents")
        self.fleet.add_agent(CANARY, ONNX)
        self.fleet.add_agent(SECOND, TFLITE)
        self.fleet.add_agent(CABLED, ONNX, through_link=True)
        self.fleet.wait_for_agents()
        call(
            *("edgec-fleet", "acceptance", "set", GUARDED, "--dir", self.fleet.server_dir),
            *("--data", DIGITS / "acceptance.npz", "--minimum", "0.9"),
        )
        self.publish(GUARDED, "1.0.0")
        everyone = [CANARY, SECOND, CABLED]
        self.committed(self.roll_out(GUARDED, "1.0.0", [{"name": "all", "devices": everyone}]))
        self._say("digits 1.0.0 runs on all three; steady inference load from here on")
        for device in self.fleet.devices:
            self._load(device.port, GUARDED)

    def ship_a_better_release(self) -> None:
        """Send 1.1.0 as a diff, canary first, while one agent's network is cut."""
        started = time.monotonic()
        self.publish(GUARDED, "1.1.0")
        rollout = self.roll_out(
            GUARDED,
            "1.1.0",
            [{"name": "canary", "devices": [CANARY]}, {"name": "rest", "percent": 100}],
        )
        self._say("digits 1.1.0 published; canary first. Cutting agent-3's network")
        self.fleet.cut()
        cut_at = time.monotonic()
        self._wait(rollout, lambda r: _committed_count(r) == 2, "the canary and agent-2 to commit")
        self._say("canary and agent-2 committed; agent-3 serves on, cut off. Mending its network")
        self.fleet.mend()
        self.facts.seconds_cut = time.monotonic() - cut_at
        done = self.committed(rollout)
        self.facts.seconds_to_all = time.monotonic() - started
        for update in done["updates"]:
            self.facts.transferred += update["transferred_bytes"]
            self.facts.full += update["full_bytes"]
        if not 0 < self.facts.transferred < self.facts.full:
            raise DemoError(f"expected a diff, shipped {self.facts.transferred} bytes")
        self._say("digits 1.1.0 committed everywhere, as a diff, hot-swapped")

    def refuse_a_bad_release(self, *, abort: bool = True) -> None:
        """Publish a rightly signed wrong model; the acceptance set refuses it on the canary."""
        self.publish(GUARDED, "1.2.0-bad")
        rollout = self.roll_out(
            GUARDED,
            "1.2.0-bad",
            [{"name": "canary", "devices": [CANARY]}, {"name": "rest", "percent": 100}],
        )
        paused = self._paused(rollout, "acceptance")
        self._refused("1.2.0-bad, rightly signed, golden samples pass", paused)
        if abort:
            self._abort(rollout)

    def roll_a_bad_release_back(self) -> None:
        """The same in a line without an acceptance set: caught in probation, rolled back."""
        self.publish(UNGUARDED, "1.0.0")
        first = self.roll_out(UNGUARDED, "1.0.0", [{"name": "canary", "devices": [CANARY]}])
        self.committed(first)
        self._load(self.fleet.devices[0].port, UNGUARDED)
        self.publish(UNGUARDED, "1.2.0-bad")
        rollout = self.roll_out(UNGUARDED, "1.2.0-bad", [{"name": "canary", "devices": [CANARY]}])
        paused = self._paused(rollout, "agree")
        self._refused("the same model where no acceptance set guards", paused)
        self._abort(rollout)

    def refuse_a_flipped_byte(self) -> None:
        """Flip one byte of a patch; applying it must refuse and leave nothing."""
        old = self._workshop.bundles(GUARDED, "1.0.0")[0]
        new = self._workshop.bundles(GUARDED, "1.1.0")[0]
        patch, flipped = self.folder / "patch", self.folder / "flipped"
        call("edgec", "diff", old, new, "-o", patch)
        call("edgec", "patch", old, patch, "-o", self.folder / "patched")
        data = bytearray(patch.read_bytes())
        data[len(data) // 2] ^= 1
        flipped.write_bytes(data)
        result = self.folder / "from-flipped"
        refused = call("edgec", "patch", old, flipped, "-o", result, ok=(1, 2))
        if result.exists():
            raise DemoError("a flipped patch left a result")
        words = refused.stderr.strip().splitlines()[-1]
        self.facts.refusals.append(("a patch with one flipped byte", words))
        self._say(f"flipped one byte of a patch: {words}")

    def finish(self) -> None:
        """Stop the load and count."""
        for load in self._loads:
            load.stop()
            self.facts.failed += len(load.failures)
            self.facts.failures += load.failures[:3]
            for version, count in load.served.items():
                key = f"{load.model} {version}"
                self.facts.served[key] = self.facts.served.get(key, 0) + count
        self.facts.accuracy = self._workshop.accuracy
        if self.facts.failed:
            raise DemoError(f"{self.facts.failed} requests failed: {self.facts.failures}")
        if any(
            version.endswith("1.2.0-bad")
            for version in self.facts.served
            if GUARDED + " " in version
        ):
            raise DemoError("the refused model served requests")

    def stop(self) -> None:
        """End every program and thread but those of a workshop that others use too."""
        for load in self._loads:
            load.stop()
        if not self._borrows:
            end_calls()
        self.fleet.stop()

    def publish(self, name: str, version: str) -> None:
        """Push a release's bundles, waiting for the compiler."""
        bundles = self._workshop.bundles(name, version)
        call("edgec", "push", *bundles, "--server", self.fleet.url, "--token", self.api.token)

    def _load(self, port: int, model: str) -> None:
        load = Load(port, model, self._images)
        load.start()
        self._loads.append(load)

    def roll_out(self, model: str, version: str, groups: list[dict[str, Any]]) -> str:
        """Order a rollout; return its id."""
        body = {"model": model, "version": version, "groups": groups}
        return str(self.api.post("/v1/rollouts", body)["id"])

    def committed(self, rollout: str) -> Any:
        """Return the rollout when every device of it has committed."""
        return self._wait(rollout, lambda r: r["state"] == "completed", "the rollout to complete")

    def _paused(self, rollout: str, word: str) -> Any:
        paused = self._wait(rollout, lambda r: r["state"] == "paused", "the rollout to pause")
        said = json.dumps(paused["updates"])
        if word not in said:
            raise DemoError(f"expected the refusal to speak of {word!r}: {said}")
        return paused

    def _refused(self, what: str, paused: Any) -> None:
        update = next(
            u for u in paused["updates"] if u["state"] in ("failed", "rejected", "rolled_back")
        )
        words = f"{update['state'].replace('_', ' ')}: {update['reason']}"
        self.facts.refusals.append((what, words))
        self._say(f"{what}: {words}")
        self._say(f"  the rollout paused: {paused['reason']}")

    def _abort(self, rollout: str) -> None:
        self.api.post(f"/v1/rollouts/{rollout}/abort", {"reason": "the model is wrong"})

    def _wait(self, rollout: str, done: Callable[[Any], bool], what: str) -> Any:
        last: list[Any] = [None]

        def holds() -> bool:
            last[0] = self.api.rollout(rollout)
            return done(last[0])

        def check() -> None:
            if last[0] and last[0]["state"] == "paused" and "pause" not in what:
                raise DemoError(f"the rollout paused: {last[0]['reason']}")

        wait_until(holds, 240, what, check)
        return last[0]


def _committed_count(rollout: Any) -> int:
    return sum(update["state"] == "committed" for update in rollout["updates"])
