"""Tells whether the machine at hand is a given target.

`HostRule.matches` decides; `this_host` is the only part that looks at the machine.
"""

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """What is known about one machine."""

    machine: str  # as `uname -m` says
    board: str  # device-tree model, "" where there is none
    usb: frozenset[str] = frozenset()  # "vendor:product", lowercase hex
    pci: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HostRule:
    """Which machines are the target. A rule that says nothing matches none."""

    machines: tuple[str, ...] = ()
    board: str | None = None  # part of the device-tree model
    usb: tuple[str, ...] = ()  # any of these USB or PCI devices must be there
    pci: tuple[str, ...] = ()

    def matches(self, host: Host) -> bool:
        """Return whether every stated condition holds on `host`."""
        if not (self.machines or self.board or self.usb or self.pci):
            return False
        devices = bool(self.usb or self.pci)
        return (
            (not self.machines or host.machine in self.machines)
            and (self.board is None or self.board in host.board)
            and (not devices or bool(host.usb & set(self.usb) or host.pci & set(self.pci)))
        )


def this_host(root: Path = Path("/")) -> Host:
    """Describe the machine at hand; what cannot be read counts as absent."""
    return Host(
        machine=platform.machine(),
        board=_read(root / "proc/device-tree/model").rstrip("\0\n"),
        usb=_ids(root / "sys/bus/usb/devices", "idVendor", "idProduct"),
        pci=_ids(root / "sys/bus/pci/devices", "vendor", "device"),
    )


def _ids(folder: Path, vendor: str, product: str) -> frozenset[str]:
    try:
        devices = sorted(folder.iterdir())
    except OSError:
        return frozenset()
    pairs = ((_read(device / vendor), _read(device / product)) for device in devices)
    return frozenset(f"{_hex(v)}:{_hex(p)}" for v, p in pairs if v and p)


def _hex(text: str) -> str:
    return text.strip().lower().removeprefix("0x")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
