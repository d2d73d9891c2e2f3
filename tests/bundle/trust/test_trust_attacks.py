"""Each attack by its name in the literature, against the real device code: refused, no change."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import (
    ExpiredError,
    MetadataError,
    NotForThisDeviceError,
    RollbackError,
    SignatureError,
    TrustError,
    WithdrawnError,
)
from edgec_bundle.trust import AssignedTarget, MetadataSet, generate_signer, sign
from edgec_bundle.trust.metadata import load

FAR = 2**40
CLOCK_AT_1970 = datetime(1970, 1, 1, tzinfo=UTC)


def thief_publishes(
    world, *, targets=None, acceptance=None, snapshot_version=None, timestamp_version=None
):
    """What somebody with the stolen online keys can publish: any pins, properly signed."""
    parts = world.parts()
    targets, acceptance = targets or parts.targets, acceptance or parts.acceptance
    now = world.now
    meta = {
        f"{role}.json": MetaFile.from_data(load(data, Targets).signed.version, data, ["sha256"])
        for role, data in (("targets", targets), ("acceptance", acceptance))
        if data != b"-"
    }
    before = load(parts.snapshot, Snapshot).signed
    if before.meta == meta and snapshot_version is None:
        number, snapshot = before.version, parts.snapshot
    else:
        number = snapshot_version or before.version + 1
        document = Snapshot(version=number, expires=now + timedelta(days=30), meta=meta)
        snapshot = sign(Metadata(document), world.signers["snapshot"][0])
    document = Timestamp(
        version=timestamp_version or load(parts.timestamp, Timestamp).signed.version + 1,
        expires=now + timedelta(days=7),
        snapshot_meta=MetaFile.from_data(number, snapshot, ["sha256"]),
        unrecognized_fields={"x-edgec": {"signed_at": now.strftime("%Y-%m-%dT%H:%M:%SZ")}},
    )
    timestamp = sign(Metadata(document), world.signers["timestamp"][0])
    return MetadataSet(parts.root, timestamp, snapshot, targets, acceptance).to_bytes()


class TestArbitrarySoftware:
    def test_targets_signed_by_an_unknown_key(self, world, make_manifest):
        world.offer()
        fake = make_manifest("6.6.6", 666)
        draft = world.repository.next_targets(expires=world.now + timedelta(days=9), add=[fake])
        forged = sign(draft, generate_signer())

        with world.refused(SignatureError):
            world.offer(world.assign(fake), thief_publishes(world, targets=forged))

    def test_a_target_that_the_release_keys_never_listed(self, world, make_manifest):
        with world.refused(WithdrawnError):
            world.offer(world.assign(make_manifest("6.6.6", 666)))

    def test_a_listed_path_with_another_digest(self, world):
        genuine = world.assigned(world.manifest)
        swapped = AssignedTarget(genuine.path, sha256_hex(b"other"), genuine.bytes)

        with world.refused(WithdrawnError):
            world.offer(world.sign_as_director([swapped], counter=1))

    def test_a_listed_path_with_another_length(self, world):
        genuine = world.assigned(world.manifest)
        longer = AssignedTarget(genuine.path, genuine.sha256, genuine.bytes + 1)

        with world.refused(WithdrawnError):
            world.offer(world.sign_as_director([longer], counter=1))

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "acceptance"])
    def test_one_changed_byte_in_the_set(self, world, role):
        parts = world.parts()
        payload = getattr(parts, role)
        at = payload.index(b'"expires":"20') + 14
        changed = payload[:at] + b"9" + payload[at + 1 :]

        with world.refused(SignatureError if role == "timestamp" else MetadataError):
            world.offer(metadata_set=replace(parts, **{role: changed}).to_bytes())

    def test_a_director_that_root_does_not_name(self, world):
        document = world.assign(signer=generate_signer())

        with world.refused(SignatureError):
            world.offer(document)

    def test_a_document_of_another_role_in_place_of_the_directors(self, world):
        with world.refused(SignatureError):
            world.offer(world.parts().targets)


class TestRollback:
    def test_yesterdays_set(self, world):
        yesterday = world.metadata_set()
        world.advance(days=1)
        world.offer()

        with world.refused(RollbackError) as caught:
            world.offer(metadata_set=yesterday)

        assert caught.value.what == "timestamp version"
        assert caught.value.offered == caught.value.installed - 1

    def test_yesterdays_set_after_both_caches_were_truncated(self, world):
        yesterday = world.metadata_set()
        world.advance(days=1)
        world.offer()
        world.forget_caches()

        with world.refused(RollbackError):
            world.offer(metadata_set=yesterday)

    @pytest.mark.parametrize("caches", ["kept", "truncated"])
    def test_older_targets_pinned_with_stolen_online_keys(self, world, caches):
        old = world.parts().targets
        world.release("1.1.0", 2)
        world.offer()
        if caches == "truncated":
            world.forget_caches()

        with world.refused(RollbackError) as caught:
            world.offer(metadata_set=thief_publishes(world, targets=old))

        assert caught.value.what == "targets version"

    @pytest.mark.parametrize("caches", ["kept", "truncated"])
    def test_an_older_acceptance_set_pinned_with_stolen_online_keys(self, world, caches):
        lax = world.parts().acceptance
        world.set_acceptance()
        world.offer()
        if caches == "truncated":
            world.forget_caches()

        with world.refused(RollbackError) as caught:
            world.offer(metadata_set=thief_publishes(world, acceptance=lax))

        assert caught.value.what == "acceptance version"

    def test_an_older_assignment(self, world):
        old = world.assign()
        world.offer(world.assign())

        with world.refused(RollbackError) as caught:
            world.offer(old)

        assert (caught.value.offered, caught.value.installed) == (1, 3)

    def test_another_assignment_with_an_equal_counter(self, world):
        world.offer(world.assign(counter=7))
        other = world.assign(counter=7, expires=world.now + timedelta(days=31))

        with world.refused(RollbackError):
            world.offer(other)


class TestIndefiniteFreeze:
    def test_the_same_set_for_longer_than_its_timestamp_lives(self, world):
        world.offer()
        frozen = world.metadata_set()
        world.now += timedelta(days=8)

        with world.refused(ExpiredError):
            world.offer(metadata_set=frozen)

    def test_the_same_assignment_for_longer_than_it_lives(self, world):
        document = world.assign()
        world.offer(document)
        world.advance(days=31)

        with world.refused(ExpiredError):
            world.offer(document)

    def test_clock_at_1970_and_a_frozen_set(self, world):
        """The director's newer signed time unmasks the old timestamp."""
        world.offer()
        frozen = world.metadata_set()
        world.advance(days=60)

        with world.refused(ExpiredError):
            world.offer(world.assign(), frozen, now=CLOCK_AT_1970)

    def test_clock_at_1970_and_an_assignment_from_before_the_latest_signed_time(self, world):
        world.advance(days=60)
        world.offer()
        issued = world.now - timedelta(days=60)
        stale = world.assign(issued=issued, expires=issued + timedelta(days=30))

        with world.refused(ExpiredError):
            world.offer(stale, now=CLOCK_AT_1970)

    def test_clock_at_1970_does_not_stop_honest_offers(self, world):
        world.offer(now=CLOCK_AT_1970)
        assert world.state.time_floor == world.now
        world.advance(days=300)
        world.change_targets()
        world.set_acceptance()
        world.offer(now=CLOCK_AT_1970)
        assert world.state.time_floor == world.now

    def test_a_clock_that_runs_ahead_does_not_raise_the_floor(self, world):
        world.offer(now=world.now + timedelta(days=3))

        assert world.state.time_floor == world.now

    def test_a_device_that_was_off_for_months_takes_the_next_offer(self, world):
        world.offer()
        world.advance(days=100)

        assert world.offer().counter == 2

    def test_an_expired_root(self, world):
        document = world.assign(expires=world.now + timedelta(days=365 * 12))
        frozen = world.metadata_set()
        world.now += timedelta(days=365 * 11)

        with world.refused(ExpiredError):
            world.offer(document, frozen)

    @pytest.mark.parametrize("role", ["targets", "acceptance"])
    def test_an_expired_document_under_a_fresh_timestamp(self, world, role):
        world.now += timedelta(days=364)
        if role == "targets":
            world.set_acceptance()
        else:
            world.change_targets()
        world.now += timedelta(days=2)

        with world.refused(ExpiredError):
            world.offer(metadata_set=thief_publishes(world))


class TestFastForward:
    def test_of_the_timestamp_ends_when_its_key_is_rotated(self, world):
        world.offer(metadata_set=thief_publishes(world, timestamp_version=FAR))
        with world.refused(RollbackError):
            world.offer()

        world.rotate("timestamp")

        world.offer()
        assert world.state.floor("timestamp") < FAR

    def test_of_the_snapshot_ends_when_its_key_is_rotated(self, world):
        world.offer(metadata_set=thief_publishes(world, snapshot_version=FAR))
        world.publish()
        world.publish()
        with world.refused(RollbackError):
            world.offer()

        world.rotate("snapshot", "timestamp")

        world.offer()
        assert world.state.floor("snapshot") < FAR

    @pytest.mark.parametrize("role", ["targets", "acceptance"])
    def test_of_a_document_ends_when_its_key_is_rotated(self, world, role):
        document = load(getattr(world.parts(), role), Targets)
        document.signed.version = FAR
        driven_up = sign(Metadata(document.signed), *world.signers[role])
        world.offer(metadata_set=thief_publishes(world, **{role: driven_up}))
        world.publish()
        world.publish()
        with world.refused(RollbackError):
            world.offer()

        world.rotate(role)

        world.offer()
        assert world.state.floor(role) < FAR

    def test_of_the_counter_ends_when_the_directors_key_is_rotated(self, world):
        world.offer(world.sign_as_director([], counter=FAR))
        with world.refused(RollbackError):
            world.offer()

        world.rotate("director")

        assert world.offer().counter == 2
        assert world.state.floor("director") == 2

    @pytest.mark.parametrize("caches", ["kept", "truncated"])
    def test_of_time_ends_when_the_directors_key_is_rotated(self, world, caches):
        ahead = world.now + timedelta(days=5)
        world.offer(
            world.sign_as_director(
                [], counter=9, issued=ahead, expires=world.now + timedelta(days=9999)
            )
        )
        assert world.state.time_floor == ahead
        if caches == "truncated":
            world.forget_caches()

        world.rotate("director")

        world.offer()
        assert world.state.time_floor == world.now

    def test_signing_for_a_time_after_the_own_expiry(self, world):
        with pytest.raises(MetadataError):
            world.assign(issued=world.now + timedelta(days=31))

    def test_rotating_one_role_keeps_the_floors_of_the_others(self, world):
        old = world.assign()
        world.offer(world.assign())

        world.rotate("timestamp")

        with world.refused(RollbackError):
            world.offer(old)


class TestMixAndMatch:
    @pytest.mark.parametrize("role", ["snapshot", "targets", "acceptance"])
    def test_an_older_part_in_a_newer_set(self, world, role):
        before = world.parts()
        world.release("1.1.0", 2)
        world.set_acceptance()
        mixed = replace(world.parts(), **{role: getattr(before, role)})

        with world.refused(MetadataError):
            world.offer(metadata_set=mixed.to_bytes())

    def test_a_newer_part_in_an_older_set(self, world):
        before = world.parts()
        world.release("1.1.0", 2)
        mixed = replace(before, targets=world.parts().targets)

        with world.refused(MetadataError):
            world.offer(metadata_set=mixed.to_bytes())


class TestEndlessData:
    @pytest.mark.parametrize(
        ("role", "bytes_too_many"),
        [("timestamp", 16_384), ("snapshot", 2_000_000), ("targets", 1), ("acceptance", 1)],
    )
    def test_a_document_padded_with_blanks(self, world, role, bytes_too_many):
        parts = world.parts()
        padded = getattr(parts, role) + b" " * bytes_too_many

        with world.refused(MetadataError):
            world.offer(metadata_set=replace(parts, **{role: padded}).to_bytes())

    def test_a_root_that_is_too_large(self, world):
        world.rotate("timestamp")
        parts = world.parts()
        padded = replace(parts, root=(parts.root[0], parts.root[1] + b" " * 512_000))

        with world.refused(MetadataError):
            world.offer(metadata_set=padded.to_bytes())

    def test_a_set_that_is_too_large(self, world):
        with world.refused(MetadataError):
            world.offer(metadata_set=world.metadata_set() + b" " * 2**24)

    def test_an_assignment_that_is_too_large(self, world):
        with world.refused(MetadataError):
            world.offer(world.assign() + b" " * 2**18)

    def test_a_chain_of_too_many_roots(self, world):
        parts = world.parts()
        endless = replace(parts, root=parts.root * 2000)

        with world.refused(MetadataError):
            world.offer(metadata_set=endless.to_bytes())


class TestStolenDirectorKey:
    def test_can_choose_among_genuine_releases_only(self, world, make_manifest):
        older = world.manifest
        newer = world.release("1.1.0", 2)

        assert world.offer(world.assign(newer)).target("digits").version == "1.1.0"
        assert world.offer(world.assign(older)).target("digits").version == "1.0.0"
        with world.refused(WithdrawnError):
            world.offer(world.assign(make_manifest("1.2.0", 3)))

    def test_cannot_lower_the_counter(self, world):
        world.offer(world.assign(counter=5))

        with world.refused(RollbackError):
            world.offer(world.assign(counter=4))

    def test_is_worth_nothing_after_rotation(self, world):
        stolen = world.signers["director"][0]
        world.offer()
        world.rotate("director")

        with world.refused(SignatureError):
            world.offer(world.assign(signer=stolen))
        world.offer()

    def test_cannot_bring_back_what_was_withdrawn(self, world):
        bad = world.release("1.1.0", 2)
        world.offer(world.assign(bad))
        world.change_targets(withdrawn=[world.assigned(bad).path])

        with world.refused(WithdrawnError):
            world.offer(world.assign(bad))

    @pytest.mark.parametrize(
        "path",
        [
            "acceptance/digits.npz",
            "digits/1.0.0/rpi4/../manifest.json",
            "/etc/passwd",
            "digits/1.0.0/rpi4/model.tflite",
            "digits/one/rpi4/manifest.json",
        ],
    )
    def test_cannot_assign_what_is_not_a_release(self, world, path):
        document = load(world.assign(), Targets)
        ((_, target),) = document.signed.targets.items()
        document.signed.targets = {path: target}
        forged = sign(Metadata(document.signed), *world.signers["director"])

        with world.refused(MetadataError):
            world.offer(forged)

    def test_cannot_assign_two_releases_of_one_model(self, world):
        document = load(world.assign(), Targets)
        ((_, target),) = document.signed.targets.items()
        document.signed.targets["digits/1.1.0/rpi4/manifest.json"] = target
        forged = sign(Metadata(document.signed), *world.signers["director"])

        with world.refused(MetadataError):
            world.offer(forged)


class TestWrongAddressee:
    def test_another_devices_document(self, world):
        with world.refused(NotForThisDeviceError):
            world.offer(world.assign(device="camera-2"))

    def test_another_tenants_document(self, world):
        with world.refused(NotForThisDeviceError):
            world.offer(world.assign(tenant="other"))

    def test_a_release_for_other_hardware(self, world):
        with world.refused(NotForThisDeviceError):
            world.offer(profiles=("coral-edgetpu",))

        assert world.offer(profiles=("rpi4", "generic-arm64")).targets

    def test_a_document_without_addressee(self, world):
        document = load(world.assign(), Targets)
        del document.signed.unrecognized_fields["x-edgec"]
        anonymous = sign(Metadata(document.signed), *world.signers["director"])

        with world.refused(MetadataError):
            world.offer(anonymous)


class TestStrippedAcceptanceSet:
    @pytest.mark.parametrize("seen", ["first contact", "seen before", "caches truncated"])
    def test_with_stolen_online_keys(self, world, seen):
        if seen != "first contact":
            world.offer()
        if seen == "caches truncated":
            world.forget_caches()

        with world.refused(MetadataError):
            world.offer(metadata_set=thief_publishes(world, acceptance=b"-"))

    def test_from_the_set(self, world):
        stripped = replace(world.parts(), acceptance=b"")

        with world.refused(MetadataError):
            world.offer(metadata_set=stripped.to_bytes())

    def test_by_the_releaser(self, world):
        """The release key can't sign for the acceptance role."""
        document = load(world.parts().acceptance, Targets)
        document.signed.targets = {}
        document.signed.version += 1
        emptied = sign(Metadata(document.signed), *world.signers["targets"])

        with world.refused(SignatureError):
            world.offer(metadata_set=thief_publishes(world, acceptance=emptied))


class TestStolenRootKey:
    def test_a_root_that_the_old_keys_did_not_sign(self, world):
        parts = world.parts()
        forged = load(parts.root[0], type(world.repository.root))
        forged.signed.version = 2
        payload = sign(Metadata(forged.signed), generate_signer())

        with world.refused(SignatureError):
            world.offer(metadata_set=replace(parts, root=(*parts.root, payload)).to_bytes())

    def test_a_root_that_skips_a_version(self, world):
        parts = world.parts()
        skipping = load(parts.root[0], type(world.repository.root))
        skipping.signed.version = 3
        payload = sign(Metadata(skipping.signed), *world.signers["root"])

        with world.refused(MetadataError):
            world.offer(metadata_set=replace(parts, root=(*parts.root, payload)).to_bytes())


class TestHostileBytes:
    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"signed":' * 50_000,
            b'{"signatures":[],"signed":{"_type":"targets"}}',
            b'{"signatures":[],"signed":{"_type":"root"}}',
            b'{"signatures":{},"signed":{"_type":"targets","version":1e400}}',
        ],
    )
    def test_in_any_place_are_refused(self, world, payload):
        parts = world.parts()

        with world.refused(MetadataError):
            world.offer(director=payload)
        with world.refused(MetadataError):
            world.offer(metadata_set=payload)
        for role in ("timestamp", "snapshot", "targets", "acceptance"):
            with world.refused(MetadataError):
                world.offer(metadata_set=replace(parts, **{role: payload}).to_bytes())
        with world.refused(MetadataError):
            world.offer(metadata_set=replace(parts, root=(*parts.root, payload)).to_bytes())

    @settings(
        max_examples=150,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_changed_anywhere_are_refused_or_mean_the_same(self, world, data):
        honest = {"director": world.assign(counter=1), **vars_of(world.parts())}
        name = data.draw(st.sampled_from(sorted(honest)))
        payload = bytearray(honest[name])
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(payload) - 1))
            payload[at] = data.draw(st.integers(0, 255))
        changed = {**honest, name: bytes(payload)}
        director = changed.pop("director")
        before = world.state
        expected = world.offer(honest["director"])
        world.state = before

        try:
            offer = world.offer(director, replace(world.parts(), **changed).to_bytes())
        except TrustError:
            assert world.state == before
        else:
            assert offer == expected
        world.state = before


def vars_of(parts):
    return {
        role: getattr(parts, role) for role in ("timestamp", "snapshot", "targets", "acceptance")
    }
