"""What the commands of `edgec-agent` do, without what they print."""

import contextlib
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgec_agent import account, commands
from edgec_agent.commands import FORGET, INSTALL, ROLLBACK
from edgec_agent.config import load_config
from edgec_agent.daemon import Daemon, SourceList, make_parts, utc_now
from edgec_agent.doctor import Finding, examine
from edgec_agent.eligibility import device_facts
from edgec_agent.enrol import Wish, enrol
from edgec_agent.errors import AgentError, BusyError, ConfigError
from edgec_agent.folder import BLOBS, LOCK, is_running, only_agent, open_state
from edgec_agent.identity import FOLDER, Identity, IdentityFolder
from edgec_agent.inference import infer_files, open_active
from edgec_agent.state import FILE_NAME, AgentState
from edgec_agent.updater import Updater
from edgec_bundle.store import FolderBlobStore
from edgec_hardware_profiles import load as load_profile

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def enroll(
    folder: Path,
    server: str,
    token: str,
    device: str | None,
    profiles: Sequence[str],
    tags: Sequence[str],
) -> Identity:
    """Join a fleet; see `enrol.enrol`. Raises ConfigError for a malformed wish."""
    if device is not None and not _NAME.fullmatch(device):
        raise ConfigError(f"not a device id: {device!r} (like {_NAME.pattern})")
    for name in profiles:
        load_profile(name)
    return enrol(server, token, folder, Wish(device, tuple(profiles), _pairs(tags, "--tag")))


def overrides_of(settings: Sequence[str]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` texts as configuration; a value is written as in TOML."""
    found: dict[str, Any] = {}
    for key, text in _pairs(settings, "--set").items():
        try:
            found[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = text
    return found


def _pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"{flag}: expected NAME=VALUE, got {text!r}")
        found[name] = value
    return found


@contextmanager
def running(folder: Path, overrides: Mapping[str, Any], address: str) -> Iterator[str]:
    """Run the agent on `folder` inside the block; yield where its API listens."""
    config = load_config(folder, overrides)
    for name in config.profiles:
        load_profile(name)
    IdentityFolder(folder).read()
    with only_agent(folder):
        daemon = Daemon(folder, config, address)
        server = daemon.start()
        try:
            yield server.address
        finally:
            daemon.close(server)


@contextmanager
def _state_of(folder: Path) -> Iterator[AgentState]:
    if not (folder / FILE_NAME).exists():
        raise ConfigError(f"there is no agent's state in {folder}")
    state = open_state(folder)
    try:
        yield state
    finally:
        state.close()


def status(folder: Path) -> dict[str, Any]:
    """Return what the device in `folder` runs, whether or not an agent does."""
    identity = IdentityFolder(folder)
    who = identity.read() if identity.exists else None
    if not (folder / FILE_NAME).exists():
        if who is None:
            raise ConfigError(f"{folder} is not an agent's folder: enrol first")
        return {"running": False, "device": who.device, "tenant": who.tenant, "models": {}}
    with _state_of(folder) as state:
        up = is_running(folder)
        address = state.cell("address") if up else None
        found = account.status(state, who)
        return {"running": up, "address": address.decode() if address else None, **found}


def status_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield `status` for people."""
    up = f"running on {found['address']}" if found["running"] else "not running"
    yield f"{found['tenant']}/{found['device']}: {up}"
    for model, about in found["models"].items():
        active, previous = about["active"], about["previous"]
        text = f"  {model}: {active['version'] if active else 'nothing in service'}"
        if previous:
            text += f" (before: {previous['version']})"
        text += f", {about['phase']}"
        if about["candidate"]:
            text += f" of {about['candidate']}"
        yield text + (f": {about['reason']}" if about["reason"] else "")
    if not found["models"]:
        yield "  no models yet"
    if found.get("outbox"):
        yield f"  {found['outbox']} messages wait for the server"


def doctor(folder: Path) -> Iterator[Finding]:
    """Yield what was found."""
    return examine(folder)


def infer(folder: Path, model: str | None, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield what the active model says of each input."""
    with _state_of(folder) as state:
        pipeline = open_active(state, FolderBlobStore(folder / BLOBS), model)
        with contextlib.closing(pipeline):
            yield from infer_files(pipeline, paths)


# -- done by the running agent, or here ------------------------------------------------------


def rollback(folder: Path, model: str, timeout_s: float) -> Mapping[str, Any]:
    """Serve the previous version of `model` again."""
    return _through_agent(
        folder,
        ROLLBACK,
        {"model": model},
        timeout_s,
        lambda updater: {"model": model, "version": updater.service.return_by_hand(model)},
    )


def install(folder: Path, pack: Path, timeout_s: float) -> Mapping[str, Any]:
    """Take models from an offline pack."""
    if not pack.exists():
        raise ConfigError(f"{pack}: no such file or folder")
    return _through_agent(
        folder,
        INSTALL,
        {"pack": str(pack.resolve())},
        timeout_s,
        lambda updater: commands.install(updater, pack),
    )


def forget(folder: Path, model: str, timeout_s: float) -> Mapping[str, Any]:
    """Try again what was refused or has failed of `model`."""
    return _through_agent(
        folder,
        FORGET,
        {"model": model},
        timeout_s,
        lambda updater: commands.forget(updater, model),
    )


def _through_agent(
    folder: Path,
    verb: str,
    arguments: Mapping[str, Any],
    timeout_s: float,
    act: Callable[[Updater], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Have the running agent do it; without one, be the agent for as long as it takes."""
    try:
        with only_agent(folder):
            return _by_ourselves(folder, act)
    except BusyError:
        with _state_of(folder) as state:
            found = dict(commands.send(state, verb, arguments, timeout_s))
    if not found.pop("ok", False):
        raise AgentError(str(found.get("error", "the agent refused")))
    return found


def _by_ourselves(folder: Path, act: Callable[[Updater], Mapping[str, Any]]) -> Mapping[str, Any]:
    identity_folder = IdentityFolder(folder)
    identity = identity_folder.read()
    config = load_config(folder)
    state = open_state(folder)
    try:
        sources = SourceList(config, identity, identity_folder)
        facts = device_facts(config.profiles or identity.profiles)
        made = make_parts(folder, config, facts, state, sources=sources, changed=lambda: None)
        updater = Updater(made.parts, identity, identity_folder.root(), utc_now)
        try:
            return act(updater)
        finally:
            made.parts.host.close()
    finally:
        state.close()


def reset_all(folder: Path) -> None:
    """Remove identity, models and state; agent.toml stays. Raises BusyError, ConfigError."""
    with only_agent(folder):
        try:
            for name in (FOLDER, BLOBS):
                shutil.rmtree(folder / name, ignore_errors=True)
            for suffix in ("", "-wal", "-shm"):
                (folder / f"{FILE_NAME}{suffix}").unlink(missing_ok=True)
            (folder / LOCK).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: {error.strerror or error}") from error
