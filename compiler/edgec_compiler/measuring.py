"""What a run measures and a second run would measure anew: kept beside the bundle, never in it."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from edgec_bundle.archive import Bundle
from edgec_compiler.errors import NotAchievedError
from edgec_compiler.timing.running import load_times
from edgec_hardware_profiles import Profile, this_host
from edgec_runtime.selftest import run_selftest

_ROLES = ("model", "labels", "golden")


@dataclass(frozen=True, slots=True)
class Measurements:
    """Latency and memory of one bundle on this machine, if it is like the target."""

    latency_ms: Mapping[str, float] | None  # p50, p95, p99
    memory_bytes: int | None
    seconds: float  # of the whole compile run up to this target's end
    host: str
    load_ms: Mapping[str, float] | None = None  # cold: a fresh process; warm: the same again
    first_ms: float | None = None  # the first inference

    def to_bytes(self) -> bytes:
        """Return measurements.json."""
        return (json.dumps({"schema": 1, **asdict(self)}, indent=2, sort_keys=True) + "\n").encode()


def measure_bundle(bundle: Bundle, profile: Profile, seconds: float) -> Measurements:
    """Run the bundle's golden samples in a fresh process if this machine is the target.

    Raises:
        NotAchievedError: the bundle does not run here as it was compiled.
    """
    host = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    if not profile.host.matches(this_host()):
        return Measurements(None, None, seconds, host)
    blobs = {role: bundle.read(role) for role in _ROLES if bundle.manifest.has(role)}
    result = run_selftest(bundle.manifest, blobs)
    if not result.passed:
        raise NotAchievedError(
            f"{profile.name}: the bundle fails its self-test: {result.reasons[0]}"
        )
    latency = result.latency_ms
    measured = (
        None if latency is None else {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99}
    )
    load, first = load_times(str(bundle.path))
    return Measurements(measured, result.memory_bytes, seconds, host, load, first)
