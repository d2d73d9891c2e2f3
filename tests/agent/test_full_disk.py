"""A file system that is really full: an update waits or fails with its reason, serving goes on."""

import errno
import os
import subprocess
import time
from contextlib import contextmanager

import pytest
from bench import Bench, load_on
from fleet_world import V1, V2, patch

SIZE = "24m"


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "edgec-test", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full(disk, left=0):
    """Let others take all of the disk but `left` bytes; 0: to the last page."""
    path = disk / "others"
    stat = os.statvfs(disk)
    with path.open("wb", buffering=0) as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - left))
            while left == 0:
                stream.seek(0, os.SEEK_END)
                stream.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        try:
            yield
        finally:
            path.unlink()


def _run_until_it_moves(device, phase):
    """Run the updater, resting as it asks: what failed for want of room is not due at once."""
    for _ in range(100):
        pause_s = device.updater.run_once()
        if device.phase() != phase:
            return
        time.sleep(min(pause_s, 0.1))
    raise AssertionError(f"still {phase}")


def test_a_disk_that_is_full_at_every_step_only_delays_the_update(disk, fleet):
    device = Bench(disk / "device", fleet)
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    fleet.offer_patch(first, second, patch(V1[0], V2[0]))
    device.updater.take(fleet.desired(second))
    seen = []

    with load_on(device.host) as failures:
        while device.phase() != "probation":
            seen.append(device.phase())
            with full(disk):
                for _ in range(3):
                    assert device.updater.run_once() > 0  # it waits
                assert device.phase() == seen[-1]
                assert device.serving() == "1.0.0"
            _run_until_it_moves(device, seen[-1])

    assert seen[1:] == [
        "offered",
        "fetching",
        "patching",
        "verifying",
        "testing",
        "staged",
    ]
    device.settle()
    assert (device.phase(), device.serving()) == ("committed", "1.1.0")
    assert "failed" not in device.phases()
    assert failures == []
    device.close()


def test_without_room_for_the_model_it_fails_with_the_reason_and_works_once_there_is_room(
    disk, fleet
):
    device = Bench(disk / "device", fleet)
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)

    with full(disk, left=(4 << 20) + 50_000):  # what the store leaves to others, and a manifest
        device.offer(second)
        failed = [event for event in device.events() if event.phase == "failed"]
        assert {event.evidence["cause"] for event in failed} == {"no_space"}
        assert len(failed) == 3
        assert device.serving() == "1.0.0"
    device.offer(second)

    assert device.serving() == "1.1.0"
    device.close()
