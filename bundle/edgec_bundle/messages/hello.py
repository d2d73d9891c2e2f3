"""`hello`: what a device is and can do, said at every connect."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from edgec_bundle.messages.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInfo:
    """The program that speaks for the device, and what it runs on."""

    version: str  # semver of edgec
    python: str
    arch: str  # as in profiles: x86_64, aarch64, armv7l
    os: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """Device to server, after each connect and when a fact changes."""

    KIND: ClassVar[str] = "hello"
    MAX_BYTES: ClassVar[int] = 64 * 1024

    boot_id: str
    agent: AgentInfo
    profiles: tuple[str, ...]  # accepted hardware profiles, preferred first
    runtimes: Mapping[str, str] = field(default_factory=dict)  # name -> version
    features: tuple[str, ...] = ()  # of manifests' requires.features
    delta_formats: tuple[str, ...] = ()
    memory_bytes: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
