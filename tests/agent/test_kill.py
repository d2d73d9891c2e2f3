"""kill -9 at random instants of an update: always the old or the new model, and complete."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fleet_world import V1, V2, patch

from edgec_agent.folder import open_state
from edgec_bundle.manifest import Manifest
from edgec_bundle.store import FolderBlobStore

TARGET = Path(__file__).parent / "kill_target.py"
KILL_AT = TARGET.with_name("kill_at.py")


def start(folder, pack):
    return subprocess.Popen(
        [sys.executable, str(TARGET), str(folder), str(pack)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )


def run_to_its_end(folder, pack):
    """Let the target run; return (what it said last, seconds)."""
    started = time.monotonic()
    process = start(folder, pack)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out.splitlines()[-1], time.monotonic() - started


def run_and_kill(folder, pack, after_s):
    """Kill the target `after_s` seconds after it was ready.

    Returns: what it had said last, if it was over by then.
    """
    process = start(folder, pack)
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(after_s)
        is_over = process.poll() is not None
        process.kill()
        out, err = process.communicate()
        assert not is_over or process.returncode == 0, err
        return out.splitlines()[-1] if is_over else None
    finally:
        process.kill()
        process.communicate()


def check_whole(folder, releases):
    """Assert that what would serve is one of `releases`, every byte of it; return it."""
    state = open_state(folder)
    try:
        assert state.is_sound()
        slot = state.slots("digits").active
        assert slot is not None
        (release,) = (one for one in releases if one.digest == slot.manifest)
        store = FolderBlobStore(folder / "blobs")
        assert Manifest.from_bytes(store.read(slot.manifest)) == release
        for entry in release.shipped():
            assert slot.files[entry.role] == entry.sha256
            assert len(store.read(entry.sha256)) == entry.bytes
        return release
    finally:
        state.close()


class Scene:
    """A device on one release, and a pack that brings the next one as a patch; and so on."""

    def __init__(self, folder, fleet):
        self.fleet, self.packs = fleet, folder
        self.folder = folder / "device"
        fleet.accept_digits()
        self.old, self.new = None, fleet.release(V1[0], "1.1.0", 1)
        self.pack = self._write_pack()
        self.finish()

    def finish(self):
        """Let the update run to its end, then prepare the next one."""
        said, self.takes_s = run_to_its_end(self.folder, self.pack)
        assert said == "over committed"
        assert check_whole(self.folder, (self.new,)) == self.new
        self._prepare_next()

    def _prepare_next(self):
        number = self.new.release + 1
        before, after = (V1[0], V2[0]) if number % 2 == 0 else (V2[0], V1[0])
        self.old, self.new = self.new, self.fleet.release(after, f"1.{number}.0", number)
        self.fleet.patches.clear()
        self.fleet.offer_patch(self.old, self.new, patch(before, after))
        self.pack = self._write_pack()

    def _write_pack(self):
        path = self.packs / str(self.new.release)
        pack = self.fleet.write_pack(path, self.fleet.desired(self.new))
        (pack / "root.json").write_bytes(self.fleet.root)
        return pack

    def kill(self, times, seed):
        """Kill updates at random instants of what a whole one takes."""
        chance = random.Random(seed)
        for _ in range(times):
            said = run_and_kill(self.folder, self.pack, chance.uniform(0, self.takes_s))
            found = check_whole(self.folder, (self.old, self.new))
            if said is not None:
                assert (said, found) == ("over committed", self.new)
                self._prepare_next()
            elif found == self.new:
                self.finish()


def test_eight_kills_at_random_instants(tmp_path, fleet):
    scene = Scene(tmp_path, fleet)

    scene.kill(8, seed=1)

    scene.finish()


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills_at_random_instants(tmp_path, fleet, seed):
    scene = Scene(tmp_path, fleet)

    scene.kill(50, seed)

    scene.finish()


def test_every_step_survives_a_kill_before_and_after_it(tmp_path, fleet):
    """The same, aimed: the process ends itself at each transaction and at each file's rename."""
    scene = Scene(tmp_path, fleet)
    instants = 0
    while True:
        process = subprocess.run(
            [sys.executable, str(KILL_AT), str(instants), str(scene.folder), str(scene.pack)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        found = check_whole(scene.folder, (scene.old, scene.new))
        if process.returncode == 0:
            break
        assert process.returncode == -9, process.stderr
        instants += 1

    assert instants > 10
    assert found == scene.new
