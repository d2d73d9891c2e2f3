"""A whole fleet in memory: key holders, server, thieves and one device. Time is the world's own."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edgec_bundle.digest import sha256_hex
from edgec_bundle.manifest import FileEntry, Manifest, Runtime, TensorSpec, target_path
from edgec_bundle.trust import (
    ROLES,
    AcceptanceSet,
    AssignedTarget,
    Assignment,
    ImageRepository,
    MetadataSet,
    RoleKeys,
    TrustState,
    generate_signer,
    new_root,
    next_root,
    sign,
    sign_assignment,
    verify_offer,
)

START = datetime(2026, 1, 1, tzinfo=UTC)  # past, so that no test depends on the real clock
YEAR = timedelta(days=365)


def manifest_bytes(version="1.0.0", release=1, profile="rpi4", model="digits"):
    return Manifest(
        model=model,
        version=version,
        release=release,
        profile=profile,
        format="tflite",
        runtime=Runtime("litert", "2.0"),
        files=(FileEntry("model", "model.tflite", 10, sha256_hex(version.encode())),),
        inputs=(TensorSpec("image", "uint8", (-1, 32, 32, 1), "image"),),
        outputs=(TensorSpec("probabilities", "float32", (-1, 10)),),
    ).to_bytes()


class World:
    """Changes by method calls; `offer` runs the real device code against it."""

    def __init__(self, folder):
        self.folder = folder
        self.now = START
        self.signers = {role: [generate_signer()] for role in ROLES}
        keys = {role: RoleKeys((one.public_key,)) for role, (one,) in self.signers.items()}
        first = new_root(keys, expires=START + 10 * YEAR)
        self.first_root = sign(first, *self.signers["root"])
        self.repository = ImageRepository.create(self.first_root)
        self.counters = {}
        self.set_acceptance(digits=AcceptanceSet("a" * 64, 100, 0.95))
        self.manifest = self.release("1.0.0", 1)
        self.state = TrustState.initial(self.first_root)

    # the key holders

    def release(self, version, release, **more):
        """Sign and publish a release."""
        payload = manifest_bytes(version, release, **more)
        self.change_targets(add=[payload])
        return payload

    def change_targets(self, withdrawn=(), **changes):
        draft = self.repository.next_targets(expires=self.now + YEAR, withdraw=withdrawn, **changes)
        payload = sign(draft, *self.signers["targets"])
        self.repository = self.repository.accept_targets(payload, now=self.now, withdrawn=withdrawn)
        self.publish()

    def set_acceptance(self, **sets):
        draft = self.repository.next_acceptance(sets, expires=self.now + YEAR)
        payload = sign(draft, *self.signers["acceptance"])
        self.repository = self.repository.accept_acceptance(payload, now=self.now)
        if self.repository.targets_bytes is not None:
            self.publish()

    def rotate(self, *roles, resign=True):
        """Give `roles` new keys by a new root, and sign again what they had signed."""
        before = list(self.signers["root"])
        for role in roles:
            self.signers[role] = [generate_signer()]
        changes = {
            role: RoleKeys(tuple(one.public_key for one in self.signers[role])) for role in roles
        }
        draft = next_root(self.repository.roots[-1], changes, expires=self.now + 10 * YEAR)
        payload = sign(draft, *{*before, *self.signers["root"]})
        self.repository = self.repository.add_root(payload)
        if resign and "targets" in roles:
            self.change_targets()
        if resign and "acceptance" in roles:
            self.set_acceptance()
        if resign:
            self.publish()

    # the server

    def publish(self, **more):
        self.repository = self.repository.publish(
            snapshot=self.signers["snapshot"][0],
            timestamp=self.signers["timestamp"][0],
            now=self.now,
            **more,
        )

    def advance(self, **time):
        """Let time pass; the server renews its timestamp."""
        self.now += timedelta(**time)
        self.publish()

    def metadata_set(self):
        return self.repository.metadata_set()

    def parts(self):
        return MetadataSet.from_bytes(self.metadata_set())

    def assign(self, *manifests, device="camera-1", tenant="default", **more):
        """Return a fresh signed assignment of `manifests`, by default of the first release."""
        counter = more.pop("counter", self.counters.get(device, 0) + 1)
        self.counters[device] = max(counter, self.counters.get(device, 0))
        return self.sign_as_director(
            [self.assigned(one) for one in manifests or (self.manifest,)],
            counter=counter,
            device=device,
            tenant=tenant,
            **more,
        )

    def assigned(self, manifest):
        path = target_path(Manifest.from_bytes(manifest))
        return AssignedTarget(path, sha256_hex(manifest), len(manifest))

    def sign_as_director(self, targets, *, counter, device="camera-1", tenant="default", **more):
        assignment = Assignment(
            tenant=tenant,
            device=device,
            counter=counter,
            issued=more.get("issued", self.now),
            expires=more.get("expires", self.now + timedelta(days=30)),
            targets=tuple(targets),
        )
        return sign_assignment(assignment, more.get("signer", self.signers["director"][0]))

    # the device

    def offer(self, director=None, metadata_set=None, **more):
        """Make an offer to the device; remember the new state only if it was accepted."""
        offer, self.state = verify_offer(
            self.state,
            director=director if director is not None else self.assign(),
            metadata_set=metadata_set if metadata_set is not None else self.metadata_set(),
            tenant="default",
            device="camera-1",
            now=more.pop("now", self.now),
            folder=self.folder,
            **more,
        )
        return offer

    def forget_caches(self):
        """What a power cut may do to files: both cached documents are truncated."""
        self.state = replace(self.state, timestamp=b"", snapshot=b"")

    @contextmanager
    def refused(self, error):
        """The offers within are refused by exactly `error`, and nothing changes."""
        before = self.state.to_bytes()
        with pytest.raises(error) as caught:
            yield caught
        assert caught.type is error
        assert self.state.to_bytes() == before
        assert not list(self.folder.iterdir())


@pytest.fixture
def world(tmp_path):
    folder = tmp_path / "device"
    folder.mkdir()
    return World(folder)


@pytest.fixture
def make_manifest():
    return manifest_bytes
