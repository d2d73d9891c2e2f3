"""`edgec-agent doctor`: what could keep this device from doing its work, checked one by one."""

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgec_agent.config import load_config
from edgec_agent.eligibility import device_facts
from edgec_agent.errors import AgentError
from edgec_agent.folder import BLOBS, is_running
from edgec_agent.identity import Identity, IdentityFolder
from edgec_agent.state import FILE_NAME, AgentState
from edgec_bundle.errors import BundleError
from edgec_bundle.store import FolderBlobStore
from edgec_bundle.trust import TrustState
from edgec_hardware_profiles import ProfileError

_FREE_BYTES = 256 * 2**20
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `level` is "ok", "warning" or "failure"."""

    check: str
    level: str
    text: str


def examine(folder: Path) -> Iterator[Finding]:
    """Yield one finding after the other; changes nothing."""
    yield from _guarded("configuration", lambda: _configuration(folder))
    yield from _guarded("runtimes", _runtimes)
    yield from _guarded("folder", lambda: _room(folder))
    yield from _guarded("state", lambda: _state(folder))
    yield from _guarded("identity", lambda: _identity(folder))
    yield from _guarded("server", lambda: _server(folder))


def _guarded(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except (AgentError, BundleError, ProfileError, OSError) as error:
        yield Finding(check, "failure", str(error))


def _configuration(folder: Path) -> Iterator[Finding]:
    identity = IdentityFolder(folder)
    enrolled = identity.read().profiles if identity.exists else ()
    facts = device_facts(load_config(folder).profiles or enrolled)
    yield Finding("configuration", "ok", f"profiles: {', '.join(facts.profiles) or 'none match'}")


def _runtimes() -> Iterator[Finding]:
    found = device_facts(()).runtimes
    if not found:
        yield Finding("runtimes", "failure", "neither onnxruntime nor ai-edge-litert is installed")
    for name, version in found.items():
        yield Finding("runtimes", "ok", f"{name} {version}")


def _room(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        yield Finding("folder", "failure", f"{folder} does not exist")
        return
    free = shutil.disk_usage(folder).free
    level = "ok" if free >= _FREE_BYTES else "warning"
    yield Finding("folder", level, f"{folder}: {free // 2**20} MiB free")
    running = "an agent is running" if is_running(folder) else "no agent is running"
    yield Finding("folder", "ok", running)


def _state(folder: Path) -> Iterator[Finding]:
    if not (folder / FILE_NAME).exists():
        yield Finding("state", "ok", "nothing installed yet")
        return
    state = AgentState(folder / FILE_NAME)
    try:
        sound = state.is_sound()
        word = "sound" if sound else "damaged"
        yield Finding("state", "ok" if sound else "failure", f"{FILE_NAME} is {word}")
        store = FolderBlobStore(folder / BLOBS)
        for model in state.models():
            slot = state.slots(model).active
            if slot is None:
                yield Finding("models", "warning", f"{model}: nothing in service")
                continue
            for digest in (slot.manifest, *slot.files.values()):
                store.read(digest)
            yield Finding("models", "ok", f"{model} {slot.version}: every file is intact")
        yield from _clock(state)
    finally:
        state.close()


def _clock(state: AgentState) -> Iterator[Finding]:
    kept = state.cell("trust")
    if kept is None:
        return
    floor, now = TrustState.from_bytes(kept).time_floor, datetime.now(UTC)
    if now < floor:
        text = f"the clock says {now:%Y-%m-%d}, but {floor:%Y-%m-%d} was signed before"
        yield Finding("clock", "warning", text)
    else:
        yield Finding("clock", "ok", f"{now:%Y-%m-%dT%H:%M:%SZ}")


def _identity(folder: Path) -> Iterator[Finding]:
    found = IdentityFolder(folder)
    identity = found.read()
    certificate = found.certificate()
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    level = "ok" if left.days >= 7 else "warning" if left.total_seconds() > 0 else "failure"
    text = f"{identity.tenant}/{identity.device}, certificate for {left.days} more days"
    yield Finding("identity", level, text)


def _server(folder: Path) -> Iterator[Finding]:
    found = IdentityFolder(folder)
    identity = found.read()
    for what, (host, port) in _addresses(identity).items():
        try:
            with (
                socket.create_connection((host, port), timeout=_TIMEOUT_S) as raw,
                found.tls().wrap_socket(raw, server_hostname=host),
            ):
                yield Finding("server", "ok", f"{what} at {host}:{port} answers")
        except ssl.SSLError as error:
            yield Finding("server", "failure", f"{what} at {host}:{port}: TLS: {error.reason}")
        except OSError as error:
            yield Finding("server", "warning", f"{what} at {host}:{port}: {error}")


def _addresses(identity: Identity) -> dict[str, tuple[str, int]]:
    authority = identity.devices_url.removeprefix("https://").partition("/")[0]
    host, _, port = authority.rpartition(":")
    return {
        "broker": (identity.mqtt_host, identity.mqtt_port),
        "device listener": (host.strip("[]"), int(port)) if port.isdigit() else (authority, 443),
    }
