"""How much of something is let through per second: token buckets, by an injected clock."""

from collections import OrderedDict
from collections.abc import Callable


class Bucket:
    """Holds at most `burst` tokens, filled at `rate` per second; taking may leave it in debt.

    Source: the token bucket of RFC 2697, without colours.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def wait_s(self, now: float) -> float:
        """Return the seconds until it is out of debt; 0 if it is."""
        self._fill(now)
        return max(0.0, -self._tokens / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Take tokens, also such that are not there yet."""
        self._fill(now)
        self._tokens -= amount

    def is_full(self, now: float) -> bool:
        """Return whether nothing was taken of late."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now


class Buckets:
    """A bucket for each of many names; those that are full again are forgotten."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float], kept: int = 10_000
    ) -> None:
        """Let `rate` per second of each name through; 0: everything."""
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._kept = kept
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()  # longest unused first

    def wait_s(self, name: str) -> float:
        """Return how long `name` has to wait."""
        bucket = self._buckets.get(name)
        return 0.0 if bucket is None else bucket.wait_s(self._clock())

    def take(self, name: str, amount: float = 1.0) -> None:
        """Count `amount` against `name`."""
        if not self._rate:
            return
        now = self._clock()
        bucket = self._buckets.setdefault(name, Bucket(self._rate, self._burst, now))
        bucket.take(amount, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._kept and next(iter(self._buckets.values())).is_full(now):
            self._buckets.popitem(last=False)

    def admits(self, name: str) -> bool:
        """Take one if `name` does not have to wait; return whether it was taken."""
        if self.wait_s(name) > 0:
            return False
        self.take(name)
        return True
