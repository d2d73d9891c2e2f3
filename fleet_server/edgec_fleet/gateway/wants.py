"""Which block goes out next: wants of many devices merged, each device its fair turn.

- A blob that was idle is gathered for: until no further device has joined for a moment (longer
  when there is a crowd already), at most `Pace.gather_s`. Then each of its blocks goes out once
  for all who want it. One device alone hardly notices. A blob that many devices were told of a
  moment ago (`expect`) is gathered for up to `CALLED` times as long.
- A block that went out is not repeated within `gather_s`: who came too late for it waits together
  with everybody else who did. Small blobs are not worth waiting for, and are repeated sooner.
- A device that listens to a blob already and asks for a block that just went out is taken to have
  asked before it came. If it was lost, the device asks again when nothing more comes.
- Turns go round the devices. The device whose turn it is pays for the block; whoever else wants
  it gets it for nothing. A device in debt misses its turn, but still gets what others pay for.

So the bytes sent grow with the time over which devices come, not with their number, and no device
can slow the others down by more than its share. No I/O here.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from edgec_fleet.gateway.pace import Bucket, Buckets

QUIET_S, CROWD_QUIET_S = 0.25, 1.0
CROWD = 4  # devices
CALLED, CALLED_S = 2.5, 3.0  # how much longer, and how soon after being told devices ask
SMALL_BYTES = 64 * 1024
MAXIMUM_BLOCKS = 1024  # that one device may have asked for and not got
_FORGET_AT = 4096  # entries of `_sent` before old ones are dropped

Blob = tuple[str, str]  # tenant, digest


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast blocks may go out. 0: as fast as they can."""

    block_bytes: int
    gather_s: float = 8.0
    bytes_per_s: int = 0  # of all blocks together
    device_bytes_per_s: int = 0  # of those that one device pays for


@dataclass(frozen=True, slots=True)
class Piece:
    """One block to publish."""

    tenant: str
    digest: str
    block: int


@dataclass(slots=True)
class _Gathering:
    """When a blob's blocks may begin to flow."""

    since: float
    joined: float
    devices: int = 1

    def opens_at(self, gather_s: float, called_until: float) -> float:
        quiet_s = QUIET_S if self.devices < CROWD else CROWD_QUIET_S
        if called_until > self.joined + quiet_s:
            return min(self.since + CALLED * gather_s, called_until)
        return min(self.since + gather_s, self.joined + quiet_s)


@dataclass(slots=True)
class _Call:
    """How many devices were told of a blob lately, and until when they are waited for."""

    devices: int
    until: float


class Wants:
    """All wants of all devices. Methods may be called from any thread."""

    def __init__(self, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = pace
        self._clock = clock
        self._wanted: dict[str, dict[Blob, dict[int, None]]] = {}  # by device, in order
        self._turns: deque[str] = deque()  # every device in `_wanted` once
        self._askers: dict[Blob, set[str]] = {}
        self._gathering: dict[Blob, _Gathering] = {}
        self._flowed: dict[Blob, float] = {}  # when a block of it went out last
        self._called: dict[Blob, _Call] = {}
        self._listening: dict[str, dict[Blob, float]] = {}  # by device: since when
        self._small: set[Blob] = set()  # of those in `_askers`
        self._sent: dict[Piece, float] = {}  # oldest first
        self._all = Bucket(pace.bytes_per_s, max(pace.bytes_per_s / 4, 1), clock())
        self._each = Buckets(pace.device_bytes_per_s, 2.0 * pace.device_bytes_per_s, clock)
        self._changed = threading.Condition()

    def add(self, device: str, tenant: str, digest: str, blocks: Iterable[int], size: int) -> None:
        """Take in which blocks one device wants of a blob of `size` bytes."""
        blob, now = (tenant, digest), self._clock()
        with self._changed:
            wanted = self._wanted.get(device)
            if wanted is None:
                wanted = self._wanted[device] = {}
                self._turns.append(device)
            if size <= SMALL_BYTES:
                self._small.add(blob)
            room = MAXIMUM_BLOCKS - sum(map(len, wanted.values()))
            since = self._listening.setdefault(device, {}).setdefault(blob, now)
            mine = wanted.setdefault(blob, {})
            for block in islice(self._not_heard(blob, blocks, since, now), room):
                mine[block] = None
            if not mine:
                self._leave(device, blob)
                return
            self._join(blob, device, now)
            self._changed.notify_all()

    def forget(self, device: str) -> None:
        """Note that `device` connected anew: what was sent to it before may not have come."""
        with self._changed:
            self._listening.pop(device, None)

    def expect(self, tenant: str, digests: Iterable[str]) -> None:
        """Note that a device was told of these blobs just now, and will soon ask for some."""
        now = self._clock()
        with self._changed:
            for digest in digests:
                call = self._called.get((tenant, digest))
                if call is None or call.until < now:
                    call = self._called[tenant, digest] = _Call(0, now)
                call.devices += 1
                call.until = now + CALLED_S
            if len(self._called) > _FORGET_AT:
                self._called = {b: call for b, call in self._called.items() if call.until >= now}

    def next(self, timeout_s: float) -> Piece | None:
        """Return the block that goes out now, taken from all who want it; None: none is due."""
        deadline = self._clock() + timeout_s
        with self._changed:
            while True:
                now = self._clock()
                found, due = self._choose(now)
                if found is not None:
                    self._note_sent(found, now)
                    return found
                if now >= deadline:
                    return None
                self._changed.wait(max(0.001, min(deadline, due) - now))

    def clear(self) -> None:
        """Forget everything: nobody is connected any more; who comes back asks again."""
        with self._changed:
            for found in (self._wanted, self._turns, self._askers, self._gathering, self._flowed):
                found.clear()
            self._small.clear()
            self._listening.clear()

    def __len__(self) -> int:
        with self._changed:
            return sum(len(one) for wanted in self._wanted.values() for one in wanted.values())

    # -- choosing ----------------------------------------------------------------------------

    def _join(self, blob: Blob, device: str, now: float) -> None:
        askers = self._askers.setdefault(blob, set())
        if blob in self._gathering:
            if device not in askers:
                self._gathering[blob].joined = now
                self._gathering[blob].devices += 1
        elif not askers and now - self._flowed.get(blob, -1e9) > self._gather_s(blob):
            self._gathering[blob] = _Gathering(now, now)
        askers.add(device)

    def _not_heard(
        self, blob: Blob, blocks: Iterable[int], since: float, now: float
    ) -> Iterator[int]:
        """Yield those of `blocks` that did not just go out to one who listens since `since`."""
        lately = now - self._gather_s(blob)
        for block in blocks:
            sent = self._sent.get(Piece(*blob, block))
            if sent is None or sent <= max(since, lately):
                yield block

    def _gather_s(self, blob: Blob) -> float:
        return min(self._pace.gather_s, QUIET_S) if blob in self._small else self._pace.gather_s

    def _choose(self, now: float) -> tuple[Piece | None, float]:
        """Return the next piece, or None and when to look again."""
        due = now + 60.0
        if self._pace.bytes_per_s and (wait_s := self._all.wait_s(now)) > 0:
            return None, now + wait_s
        for _ in range(len(self._turns)):
            device = self._turns[0]
            self._turns.rotate(-1)
            if (wait_s := self._each.wait_s(device)) > 0:
                due = min(due, now + wait_s)
                continue
            for blob, blocks in self._wanted[device].items():
                piece, ready_at = self._first(blob, blocks, now)
                if piece is not None:
                    self._each.take(device, self._pace.block_bytes)
                    return piece, now
                due = min(due, ready_at)
        return None, due

    def _first(self, blob: Blob, blocks: Iterable[int], now: float) -> tuple[Piece | None, float]:
        """Return the first of `blocks` that may go out, or None and when one may."""
        gathering = self._gathering.get(blob)
        if gathering is not None:
            opens_at = gathering.opens_at(self._gather_s(blob), self._called_until(blob))
            if now < opens_at:
                return None, opens_at
            del self._gathering[blob]
        soonest = now + 60.0
        for block in blocks:
            piece = Piece(*blob, block)
            ready_at = self._may_repeat_at(piece, blob)
            if ready_at <= now:
                return piece, now
            soonest = min(soonest, ready_at)
        return None, soonest

    def _called_until(self, blob: Blob) -> float:
        call = self._called.get(blob)
        return call.until if call is not None and call.devices >= CROWD else 0.0

    def _may_repeat_at(self, piece: Piece, blob: Blob) -> float:
        sent = self._sent.get(piece)
        if sent is None:
            return 0.0
        gather_s = self._gather_s(blob)
        return max(sent + gather_s, min(sent + CALLED * gather_s, self._called_until(blob)))

    def _note_sent(self, piece: Piece, now: float) -> None:
        """Strike the piece from every list."""
        blob = (piece.tenant, piece.digest)
        if self._pace.bytes_per_s:
            self._all.take(self._pace.block_bytes, now)
        self._sent.pop(piece, None)
        self._sent[piece] = self._flowed[blob] = now
        for device in tuple(self._askers.get(blob, ())):
            self._strike(device, blob, piece.block)
        if len(self._sent) > _FORGET_AT:
            self._forget(now)

    def _strike(self, device: str, blob: Blob, block: int) -> None:
        blocks = self._wanted[device][blob]
        blocks.pop(block, None)
        if not blocks:
            self._leave(device, blob)

    def _leave(self, device: str, blob: Blob) -> None:
        """Forget a blob that `device` wants no more block of."""
        del self._wanted[device][blob]
        askers = self._askers.get(blob, set())
        askers.discard(device)
        if not askers:
            self._askers.pop(blob, None)
            self._small.discard(blob)
        if not self._wanted[device]:
            del self._wanted[device]
            self._turns.remove(device)

    def _forget(self, now: float) -> None:
        old = now - self._pace.gather_s
        if len(self._listening) > _FORGET_AT:
            self._listening = {
                device: blobs for device, blobs in self._listening.items() if device in self._wanted
            }
        self._sent = {piece: at for piece, at in self._sent.items() if at > old}
        self._flowed = {blob: at for blob, at in self._flowed.items() if at > old}
