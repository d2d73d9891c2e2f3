"""The agent's folder: where its things lie, and that only one agent works on it at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgec_agent.errors import BusyError, ConfigError
from edgec_agent.state import FILE_NAME, AgentState

BLOBS = "blobs"
LOCK = "agent.lock"


def open_state(folder: Path) -> AgentState:
    """Open, or make, the state in `folder`. Raises ConfigError, StateError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror or error}") from error
    return AgentState(folder / FILE_NAME)


def is_running(folder: Path) -> bool:
    """Return whether an agent works on `folder` now."""
    try:
        with only_agent(folder):
            return False
    except BusyError:
        return True


@contextmanager
def only_agent(folder: Path) -> Iterator[None]:
    """Be the only agent on `folder`; a killed one leaves no lock behind.

    Raises:
        BusyError: another one is.
        ConfigError: the folder can't be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"an agent is running on {folder} already") from error
        yield
    finally:
        os.close(fd)
