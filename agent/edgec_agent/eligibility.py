"""Whether a bundle is for this device. `refusal` decides; `device_facts` looks at the machine."""

import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edgec_bundle.errors import RollbackError
from edgec_bundle.manifest import Manifest
from edgec_bundle.trust import check_release
from edgec_hardware_profiles import load, matching
from edgec_runtime.errors import RuntimeMissingError
from edgec_runtime.pipeline import unsupported
from edgec_runtime.session import installed_runtimes, require_runtime


@dataclass(frozen=True, slots=True)
class Facts:
    """What this device is and has."""

    profiles: tuple[str, ...]  # accepted, preferred first
    arch: str  # as `uname -m` says
    runtimes: Mapping[str, str]  # name -> version
    memory_bytes: int | None
    accelerators: frozenset[str] = frozenset()


def refusal(
    manifest: Manifest,
    assigned: tuple[str, str, str],
    facts: Facts,
    floor_release: int,
    rollbacks: Collection[str],
) -> str | None:
    """Return why `manifest` must not be installed here, or None.

    Args:
        manifest: parsed after its digest was found in signed metadata.
        assigned: model, version and profile under which that metadata lists it.
        facts: of this device.
        floor_release: the highest release of the model ever committed here.
        rollbacks: digests that the release keys allow below that.
    """
    named = (manifest.model, manifest.version, manifest.profile)
    if named != assigned:
        return f"the manifest says {'/'.join(named)}, but was signed as {'/'.join(assigned)}"
    if manifest.profile not in facts.profiles:
        accepted = ", ".join(facts.profiles) or "none"
        return f"profile {manifest.profile} is not accepted here (accepted: {accepted})"
    try:
        check_release(manifest.release, manifest.digest, floor_release, rollbacks)
    except RollbackError as error:
        return str(error)
    return _lacking(manifest, facts)


def _lacking(manifest: Manifest, facts: Facts) -> str | None:
    requires = manifest.requires
    if unknown := unsupported(manifest):
        return f"needs features that are unknown here: {', '.join(unknown)}"
    try:
        require_runtime(manifest.runtime.name, manifest.runtime.min_version or "0")
    except RuntimeMissingError as error:
        return str(error)
    if requires.arch not in (None, "any", facts.arch):
        return f"needs a {requires.arch} processor, this is {facts.arch}"
    if requires.accelerator is not None and requires.accelerator not in facts.accelerators:
        return f"needs the accelerator {requires.accelerator}"
    wanted, present = requires.memory_bytes, facts.memory_bytes
    if wanted is not None and present is not None and wanted > present:
        return f"needs {wanted} bytes of memory, the device has {present}"
    return None


def device_facts(profiles: tuple[str, ...]) -> Facts:
    """Return what this machine is; with no `profiles`, those that it matches are accepted."""
    found = matching()
    known = (load(name) for name in found)
    return Facts(
        profiles=profiles or found,
        arch=platform.machine(),
        runtimes=installed_runtimes(),
        memory_bytes=_memory_bytes(),
        accelerators=frozenset(one.accelerator for one in known if one.accelerator),
    )


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
