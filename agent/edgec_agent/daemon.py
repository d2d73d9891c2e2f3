"""The agent as a whole: makes the parts, starts the threads, and stops them cleanly.

Threads: the local API's (server), the updater's, and, on an enrolled device, the link's and the
post's. Serving comes first: it starts before, and goes on without, all the others.
"""

import contextlib
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

from edgec_agent import account
from edgec_agent.commands import answer
from edgec_agent.config import AgentConfig
from edgec_agent.download import BlockSource, Downloader
from edgec_agent.eligibility import Facts, device_facts
from edgec_agent.enrol import renew, renewal_is_due
from edgec_agent.errors import AgentError
from edgec_agent.folder import BLOBS, open_state
from edgec_agent.host import ModelHost
from edgec_agent.http_source import HttpSource
from edgec_agent.identity import Identity, IdentityFolder
from edgec_agent.interrupt import Interrupt
from edgec_agent.journal import Journal
from edgec_agent.link import Link
from edgec_agent.mailbox import Mailbox
from edgec_agent.mqtt_source import MqttSource
from edgec_agent.offer import Offer
from edgec_agent.outbox import Outbox
from edgec_agent.parts import Parts
from edgec_agent.post import Post
from edgec_agent.server import InferenceServer, serve
from edgec_agent.state import AgentState
from edgec_agent.telemetry import HostMeter, report
from edgec_agent.updater import Updater
from edgec_bundle.errors import BundleError
from edgec_bundle.messages import Topics, rfc3339
from edgec_bundle.store import FolderBlobStore

logger = logging.getLogger(__name__)

_COMMAND_POLL_S = 0.5
_RENEWAL_S = 3600.0
_JOIN_S = 10.0


def utc_now() -> datetime:
    """Return the local clock's time, which may be wrong."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Made:
    """Parts and the pieces that the daemon itself needs besides."""

    parts: Parts
    outbox: Outbox


def make_parts(
    folder: Path,
    config: AgentConfig,
    facts: Facts,
    state: AgentState,
    *,
    sources: "SourceList",
    changed: Callable[[], None],
) -> Made:
    """Return the agent's organs, joined."""
    store = FolderBlobStore(folder / BLOBS)
    outbox = Outbox(state, config.outbox)
    interrupt = Interrupt()
    parts = Parts(
        config=config,
        facts=facts,
        state=state,
        store=store,
        host=ModelHost(threads=config.threads),
        journal=Journal(state, outbox, utc_now, changed),
        downloader=Downloader(store, config.transfer, interrupt),
        sources=sources,
        interrupt=interrupt,
    )
    return Made(parts, outbox)


class SourceList:
    """The block sources for an offer: MQTT first, HTTPS at the address that the server names."""

    def __init__(self, config: AgentConfig, identity: Identity, folder: IdentityFolder) -> None:
        self._config = config
        self._identity = identity
        self._folder = folder
        self.link: Link | None = None
        self.believes_clock = True

    def __call__(self, offer: Offer) -> Sequence[BlockSource]:
        """Return the sources, preferred first."""
        named = offer.http if offer.http and offer.http.startswith("https://") else None
        http = HttpSource(
            named or self._identity.devices_url or None,
            lambda: self._folder.tls(believe_clock=self.believes_clock),
            self._config.transfer,
        )
        if self.link is None:
            return (http,)
        link = self.link
        return (MqttSource(lambda: link.is_connected, link.feed, self._config.transfer), http)


class Daemon:
    """An agent: `start` starts it, `close` stops it."""

    def __init__(self, folder: Path, config: AgentConfig, address: str) -> None:
        """Prepare to serve `folder`'s models on `address`. Raises AgentError."""
        self._folder = folder
        self._config = config
        self._address = address
        self._identity_folder = IdentityFolder(folder)
        self._identity = self._identity_folder.read()
        self._state = open_state(folder)
        self._stop = threading.Event()
        self._inbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._sources = SourceList(config, self._identity, self._identity_folder)
        self._facts = device_facts(config.profiles or self._identity.profiles)
        self._made = make_parts(
            folder,
            config,
            self._facts,
            self._state,
            sources=self._sources,
            changed=lambda: self._post.state_changed(),
        )
        self._updater = Updater(
            self._made.parts, self._identity, self._identity_folder.root(), utc_now
        )
        self._link = self._new_link()
        self._sources.link = self._link
        self._post = Post(
            self._link,
            self._made.outbox,
            hello=lambda: account.hello(
                self._state,
                self._identity,
                self._facts,
                config.transfer.delta_formats,
                utc_now(),
            ).to_bytes(),
            state=self._state_message,
        )
        self._mailbox = Mailbox(self._state)
        self._generation = 0  # of the connection that the updater knows of
        self._begun = 0  # the command that the updater has begun
        self._meter = HostMeter()

    def _new_link(self) -> Link:
        return Link(
            (self._identity.mqtt_host, self._identity.mqtt_port),
            Topics(self._identity.tenant, self._identity.device),
            self._config.link,
            tls=lambda: self._identity_folder.tls(believe_clock=self._believe_clock()),
            will=lambda: self._state_message(False),
            on_desired=self._desired,
            on_connected=lambda: self._inbox.put(None),
            now=lambda: rfc3339(utc_now()),
        )

    def _believe_clock(self) -> bool:
        """Whether the local clock is not known to be wrong."""
        believed = utc_now() >= self._updater.assignments.trust.time_floor
        if not believed and self._sources.believes_clock:
            logger.warning("the clock is behind a time that was signed: dates are ignored in TLS")
        self._sources.believes_clock = believed
        return believed

    def _state_message(self, online: bool) -> bytes:
        return account.state_message(self._state, utc_now(), online=online).to_bytes()

    def _desired(self, payload: bytes) -> None:
        """Hand an assignment to the updater; on the link's thread."""
        self._inbox.put(payload)
        self._made.parts.interrupt.set()

    # -- life --------------------------------------------------------------------------------

    def start(self) -> InferenceServer:
        """Serve what was served before, then everything else; return the local API's server.

        Raises:
            AgentError: the address can't be used.
        """
        self._updater.service.expect()
        server = serve(self._made.parts.host, self._address, status=self._status)
        try:
            self._state.begin_boot()
            self._state.set_cell("address", server.address.encode())
        except sqlite3.Error as error:  # a full disk is no reason not to serve
            logger.error("state.db: %s", error)
        try:
            self._updater.boot()
        except (BundleError, sqlite3.Error) as error:
            logger.error("the last state could not be restored in full: %s", error)
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in (
                (self._update, "edgec-updater"),
                (self._measure, "edgec-telemetry"),
                (self._keep_certificate, "edgec-renewal"),
                (self._listen, "edgec-commands"),
            )
        ]
        self._link.start()
        self._post.start()
        for thread in self._threads:
            thread.start()
        return server

    def close(self, server: InferenceServer) -> None:
        """Stop everything, so that the next start goes on where this one ends."""
        self._stop.set()
        self._made.parts.interrupt.set()
        self._inbox.put(None)
        end_children()
        for thread in self._threads:
            thread.join(timeout=_JOIN_S)
        self._updater.close()
        self._post.close()
        self._link.close()
        server.close()
        self._made.parts.host.close()
        self._state.close()

    def _status(self) -> dict[str, object]:
        return account.status(self._state, self._identity, lambda: self._link.problem)

    # -- threads -----------------------------------------------------------------------------

    def _update(self) -> None:
        """Run the updater; what arrives meanwhile is looked at between two steps."""
        pause_s = 0.0
        while not self._stop.is_set():
            self._made.parts.interrupt.clear()  # before looking: what comes later sets it again
            try:
                pause_s = self._turn(pause_s)
            except Exception:  # the edge: serving goes on whatever an update does
                logger.exception("the updater")
                self._stop.wait(5)

    def _turn(self, pause_s: float) -> float:
        """Wait for news, at most `pause_s`; do one step; return how long to wait next."""
        try:
            arrived = self._inbox.get(timeout=pause_s)
            if arrived is not None:
                self._updater.take(arrived)
        except Empty:
            pass
        if self._link.generation != self._generation:
            self._generation = self._link.generation
            self._updater.wake()
        while (command := self._mailbox.next()) is not None:
            self._begun = command.id
            self._made.parts.interrupt.clear()
            self._mailbox.answer(command.id, answer(self._updater, command))
        return 0.0 if self._stop.is_set() else self._updater.run_once()

    def _listen(self) -> None:
        """Tell the updater, even in the middle of a download, that a person wants something."""
        while not self._stop.wait(_COMMAND_POLL_S):
            try:
                command = self._mailbox.next()
                if command is not None and command.id != self._begun:
                    self._made.parts.interrupt.set()
                    self._inbox.put(None)
            except sqlite3.Error as error:
                logger.error("state.db: %s", error)

    def _measure(self) -> None:
        """Put a window of telemetry into the outbox now and then."""
        while not self._stop.wait(self._config.telemetry_s):
            try:
                boot_id = (self._state.cell("boot_id") or b"none").decode()
                windows = self._made.parts.host.take_windows()
                for message in report(windows, boot_id, utc_now(), self._meter.read()):
                    self._made.outbox.put(message)
            except Exception:  # the edge: numbers are never worth a crash
                logger.exception("telemetry")

    def _keep_certificate(self) -> None:
        """Renew the certificate when a third of its life is left."""
        pause_s = 1.0
        while not self._stop.wait(pause_s):
            pause_s = _RENEWAL_S
            try:
                if renewal_is_due(self._identity_folder.certificate(), utc_now()):
                    started = time.monotonic()
                    renew(self._identity_folder, self._identity, self._identity_folder.tls())
                    logger.info("certificate renewed in %.1f s", time.monotonic() - started)
            except (AgentError, OSError) as error:
                logger.warning("the certificate could not be renewed: %s", error)


def end_children() -> None:
    """End the self-test that may be running; it will be run again after the next start."""
    for thread in Path("/proc/self/task").glob("*/children"):
        try:
            children = [int(pid) for pid in thread.read_text().split()]
        except (OSError, ValueError):
            continue
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # each leads a group of its own
