"""An agent on the bench: the real updater with its parts, driven step by step from a test."""

import threading
from contextlib import contextmanager
from datetime import UTC, datetime

from fleet_world import BLOCK, DEVICE, PROFILE, TENANT, digits

from edgec_agent.config import load_config
from edgec_agent.daemon import make_parts
from edgec_agent.download import SourceError
from edgec_agent.eligibility import device_facts
from edgec_agent.folder import open_state
from edgec_agent.identity import Identity
from edgec_agent.machine import IN_PROGRESS
from edgec_agent.updater import Updater
from edgec_bundle.messages import Event

QUICK = {
    "probation.samples": 40,
    "probation.minimum_samples": 10,
    "probation.seconds": 240.0,
    "probation.latency_factor": 1e6,  # a busy machine must not pass for the candidate's fault
    "retry.base_s": 0.01,
    "retry.longest_s": 0.05,
    "retry.attempts": 3,
    "testing.runs": 3,
    "testing.timeout_s": 240.0,
    "transfer.rounds": 1,
}


class MemorySource:
    """A block source over a dict, whose manners a test may change."""

    name = "memory"

    def __init__(self, blobs):
        self.blobs = blobs
        self.ready = True
        self.asked = []
        self.broken = lambda digest, index, data: data
        self.stop_after = None  # blocks per pull

    def is_ready(self):
        return self.ready

    def pull(self, partial, interrupt):
        self.asked.append(partial.digest)
        data = self.blobs.get(partial.digest)
        if data is None:
            raise SourceError("not here", absent=True)
        for count, index in enumerate(partial.missing()):
            interrupt.check()
            if self.stop_after is not None and count >= self.stop_after:
                raise SourceError("the link broke")
            part = data[index * partial.block_bytes : (index + 1) * partial.block_bytes]
            partial.write_block(index, self.broken(partial.digest, index, part))


class Bench:
    """One device in `folder`, without threads of its own: `settle` runs the updater."""

    def __init__(self, folder, fleet, source=None, **settings):
        self.folder = folder
        self.fleet = fleet
        self.source = source or MemorySource(fleet.blobs)
        self.now = lambda: datetime.now(UTC)
        self.config = load_config(folder, QUICK | {"probation.samples": 40} | settings)
        self.state = open_state(folder)
        self.facts = device_facts((PROFILE,))
        made = make_parts(
            folder,
            self.config,
            self.facts,
            self.state,
            sources=lambda offer: (self.source,),
            changed=lambda: None,
        )
        self.parts, self.outbox = made.parts, made.outbox
        self.host = self.parts.host
        identity = Identity(DEVICE, TENANT, "127.0.0.1", 1, "https://127.0.0.1:1", (PROFILE,))
        self.updater = Updater(self.parts, identity, fleet.root, lambda: self.now())
        self.state.begin_boot()
        self.updater.boot()

    def close(self):
        self.updater.close()
        self.die()

    def die(self):
        """Go away without a word, as far as one can within a process."""
        self.host.close()
        self.state.close()

    def offer(self, *manifests, **more):
        """Send an assignment and act on it until nothing is due."""
        self.updater.take(self.fleet.desired(*manifests, **more))
        return self.settle()

    def settle(self, turns=2000):
        """Run the updater until it has nothing to do now; live inputs come all the while."""
        images = digits()[0]
        for turn in range(turns):
            pause_s = self.updater.run_once()
            for model in self.host.models():
                for row in range(4):
                    at = (turn * 4 + row) % len(images)
                    self.host.infer(model, {"image": images[at : at + 1]})
            if pause_s > 1 and not self.waits():
                return
        raise AssertionError(f"still busy: {self.state.updates()}")

    def waits(self):
        return any(update.phase in IN_PROGRESS and self.source.ready for update in self.updates())

    def updates(self):
        return self.state.updates()

    def phase(self, model="digits"):
        return self.state.update(model).phase

    def active(self, model="digits"):
        slot = self.state.slots(model).active
        return slot.version if slot else None

    def serving(self, model="digits"):
        """Return the version that really answers."""
        _, manifest = self.host.infer(model, {"image": digits()[0][:1]})
        return manifest.version

    def events(self, model="digits"):
        found = [Event.from_bytes(one.payload) for one in self.outbox.oldest(10_000)]
        return [event for event in found if event.model == model]

    def phases(self, model="digits"):
        return [event.phase for event in self.events(model)]


@contextmanager
def load_on(host, model="digits"):
    """Call `model` all the while, as an application would; yield the list of failures."""
    images, failures, stop = digits()[0], [], threading.Event()

    def work():
        at = 0
        while not stop.is_set():
            try:
                host.infer(model, {"image": images[at : at + 1]})
            except Exception as error:
                failures.append(error)
            at = (at + 1) % len(images)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()


__all__ = ["BLOCK", "Bench", "MemorySource", "load_on"]
