"""What the server offers: an assignment whose proof was checked, and advice on its bytes.

`Offer` is made only from a `VerifiedOffer`; it is kept in state.db, so that a restart needs
neither the server nor the proof again. `sources` are advice: sizes and digests in them decide
nothing, the signed ones do.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from edgec_bundle.messages import Desired, PatchSource
from edgec_bundle.trust.device import VerifiedOffer


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The trusted acceptance set of a model line."""

    sha256: str
    bytes: int
    minimum: float
    metric: str


@dataclass(frozen=True, slots=True)
class Assigned:
    """One model that this device shall run."""

    model: str
    version: str
    profile: str
    sha256: str  # of the manifest
    bytes: int
    rollout: str | None = None
    acceptance: Acceptance | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """One verified assignment."""

    counter: int
    assigned: tuple[Assigned, ...] = ()
    rollbacks: tuple[str, ...] = ()  # manifests that may be installed below the floor
    patches: Mapping[str, tuple[PatchSource, ...]] = field(default_factory=dict)  # by target
    block_bytes: int = 128 * 1024
    http: str | None = None

    def find(self, model: str, manifest: str) -> Assigned | None:
        """Return what was assigned of `model`, if it is still `manifest`."""
        for one in self.assigned:
            if one.model == model and one.sha256 == manifest:
                return one
        return None

    def to_bytes(self) -> bytes:
        """Return the form for state.db."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Return the offer in `payload`, the inverse of `to_bytes`."""
        raw: dict[str, Any] = json.loads(payload)
        raw["assigned"] = tuple(_assigned(one) for one in raw["assigned"])
        raw["rollbacks"] = tuple(raw["rollbacks"])
        raw["patches"] = {
            target: tuple(PatchSource(**one) for one in patches)
            for target, patches in raw["patches"].items()
        }
        return cls(**raw)


def _assigned(raw: dict[str, Any]) -> Assigned:
    if raw["acceptance"] is not None:
        raw = raw | {"acceptance": Acceptance(**raw["acceptance"])}
    return Assigned(**raw)


def offer_of(desired: Desired, verified: VerifiedOffer) -> Offer:
    """Return what `verified` asks for, with `desired`'s advice on the bytes."""
    return Offer(
        counter=verified.counter,
        assigned=tuple(
            Assigned(
                model=target.model,
                version=target.version,
                profile=target.profile,
                sha256=target.sha256,
                bytes=target.bytes,
                rollout=desired.rollouts.get(target.model),
                acceptance=_acceptance(verified, target.model),
            )
            for target in verified.targets
        ),
        rollbacks=tuple(sorted(verified.rollbacks)),
        patches={source.sha256: source.patches for source in desired.sources if source.patches},
        block_bytes=desired.block_bytes,
        http=desired.http,
    )


def _acceptance(verified: VerifiedOffer, model: str) -> Acceptance | None:
    trusted = verified.acceptance.get(model)
    if trusted is None:
        return None
    return Acceptance(trusted.sha256, trusted.bytes, trusted.minimum, trusted.metric)
