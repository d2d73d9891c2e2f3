"""How much memory there is: the machine's, or the container's where that is less."""

from pathlib import Path

_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def available_bytes() -> int | None:
    """Return what can be had without anything being swapped or killed; None if nobody tells."""
    free = _told("/proc/meminfo", "MemAvailable")
    try:
        left = int(_LIMIT.read_text()) - int(_USED.read_text())
    except (OSError, ValueError):  # no such controller, or no limit ("max")
        return free
    return left if free is None else min(free, left)


def own_bytes() -> int | None:
    """Return what this process has now; None if nobody tells."""
    return _told("/proc/self/status", "VmRSS")


def _told(path: str, key: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return next((int(value) * 1024 for value in found), None)
