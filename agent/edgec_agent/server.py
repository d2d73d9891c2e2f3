"""The local API's sockets."""

from collections.abc import Callable, Mapping

from edgec_agent.host import ModelHost

Status = Callable[[], Mapping[str, object]]


class InferenceServer:
    """A running server; `address` is where it listens ("127.0.0.1:9000", "unix:/run/x.sock")."""

    address: str

    def close(self, drain_s: float = 5.0) -> None:
        """Stop listening, let calls in flight end (up to `drain_s`), close every connection."""
        raise NotImplementedError


def serve(
    host: ModelHost, address: str, *, status: Status | None = None, allow_remote: bool = False
) -> InferenceServer:
    """Listen on `address` and serve in threads of their own; return at once.

    Args:
        address: "HOST:PORT" (port 0: any free one) or "unix:PATH".
        status: what `GET /v1/status` adds to the host's own account (phases, slots, ...).
        allow_remote: without it, a TCP address that is not loopback is refused.

    Raises:
        AddressError: malformed, taken, or not loopback.
    """
    raise NotImplementedError
