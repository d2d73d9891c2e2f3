"""What an update costs on the wire: bytes, time against the link's limit, and a whole fleet.

    python benchmarks/transfer.py [--devices 1,10,100,200] [--patch-bytes N]
                                  [--skip-lines] [--skip-fleets]

A real Mosquitto, gateway and HTTPS listener as processes; devices run the agent's own download
code. Lines are a TCP proxy (tests/link_proxy.py): one rate for everything a device receives,
TLS and MQTT included; "cut" freezes it half-open. Time against the limit is the time taken over
that of the patch's bytes alone at the line's rate.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _transfer_fleet import Fleet, running

KIB = 1024


@dataclass(frozen=True)
class Case:
    """One line and one way."""

    name: str
    way: str
    patch_bytes: int
    line: int | None  # bytes per second
    delay_s: float = 0.0
    cut_every_s: float | None = None
    cut_s: float = 0.0


def cases() -> list[Case]:
    """Return the rows of the first table."""
    return [
        case
        for way in ("mqtt", "http")
        for case in (
            Case("2 kB/s, 100 ms", way, 60 * KIB, 2000, 0.1),
            Case("2 kB/s, 100 ms, cut for 5 s every 15 s", way, 60 * KIB, 2000, 0.1, 15.0, 5.0),
            Case("20 kB/s, 50 ms", way, 200 * KIB, 20_000, 0.05),
            Case("200 kB/s, 20 ms", way, 1000 * KIB, 200_000, 0.02),
            Case("loopback", way, 4000 * KIB, None),
        )
    ]


def line_row(fleet: Fleet, case: Case) -> str:
    """Measure one case; return its row."""
    options: dict[str, object] = {"ways": [case.way]}
    if case.cut_every_s is not None:
        options = {"ways": [case.way, *({"mqtt", "http"} - {case.way})]}
        options |= {"cut_every_s": case.cut_every_s, "cut_s": case.cut_s}
    (found,) = fleet.download(
        case.patch_bytes, 1, line=case.line or 10**9, delay_s=case.delay_s, **options
    )
    share = found["carried"] / found["bytes"]
    limit_s = found["bytes"] / case.line if case.line else 0.0
    against = f"{found['seconds'] / limit_s:.2f}" if limit_s else "-"
    return (
        f"| {case.name} | {found['sources']} | {found['bytes']:.0f} | {share:.3f} "
        f"| {found['seconds']:.1f} | {against} |"
    )


def fleet_row(fleet: Fleet, devices: int, patch_bytes: int, processes: int) -> str:
    """Measure one fleet; return its row."""
    before = fleet.published_bytes()
    found = fleet.download(patch_bytes, devices, processes, ways=["mqtt"])
    sent = fleet.published_bytes() - before
    size, seconds = found[0]["bytes"], sorted(one["seconds"] for one in found)
    return (
        f"| {devices} | {size:.0f} | {sent} | {sent / size:.2f} | {devices * size / sent:.0f} "
        f"| {seconds[len(seconds) // 2]:.1f} | {seconds[-1]:.1f} |"
    )


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="1,10,100,200")
    parser.add_argument("--patch-bytes", type=int, default=2_000_000)
    parser.add_argument("--processes", type=int, default=4, help="that the devices run in")
    parser.add_argument("--skip-lines", action="store_true", help="only the table of fleets")
    parser.add_argument("--skip-fleets", action="store_true", help="only the table of lines")
    given = parser.parse_args()
    counts = [int(text) for text in given.devices.split(",")]
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as fleet:
        fleet.enrol(max(counts))
        if not given.skip_lines:
            print("| line | came over | patch bytes | bytes on the wire / patch | s | / limit |")
            print("|---|---|---|---|---|---|")
            for case in cases():
                print(line_row(fleet, case), flush=True)
            print()
        if given.skip_fleets:
            return
        print("| devices | patch bytes | published | copies | saved | median s | last s |")
        print("|---|---|---|---|---|---|---|")
        for count in counts:
            print(fleet_row(fleet, count, given.patch_bytes, given.processes), flush=True)


if __name__ == "__main__":
    main()
