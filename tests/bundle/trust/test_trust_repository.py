"""The image repository: what it accepts, publishes and refuses; what stock clients make of it."""

from datetime import timedelta

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Snapshot, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgec_bundle.errors import (
    ExpiredError,
    MetadataError,
    RollbackError,
    SignatureError,
    WithdrawnError,
)
from edgec_bundle.trust import (
    AcceptanceSet,
    FolderMetadata,
    ImageRepository,
    MetadataSet,
    RoleKeys,
    TrustState,
    add_signature,
    check_release,
    generate_signer,
    jump_version,
    new_root,
    next_root,
    role_keys,
    sign,
    sign_release,
    verify_offer,
)
from edgec_bundle.trust.metadata import load

YEAR = timedelta(days=365)


def version_of(repository, role, kind=Targets):
    return load(
        getattr(MetadataSet.from_bytes(repository.metadata_set()), role), kind
    ).signed.version


def accept(world, payload, **more):
    return world.repository.accept_targets(payload, now=world.now, **more)


class TestAcceptedTargets:
    def test_a_release_signed_elsewhere_reaches_the_device(self, world, make_manifest):
        elsewhere = world.signers.pop("targets")[0]
        new = make_manifest("1.1.0", 2)
        finished = sign_release(
            [new], world.repository.targets_bytes, elsewhere, expires=world.now + YEAR
        )

        world.repository = accept(world, finished)
        world.publish()

        assert world.offer(world.assign(new)).target("digits").version == "1.1.0"

    def test_of_an_unknown_key_are_refused(self, world):
        draft = world.repository.next_targets(expires=world.now + YEAR)

        with pytest.raises(SignatureError):
            accept(world, sign(draft, generate_signer()))

    def test_that_are_not_newer_are_refused(self, world):
        with pytest.raises(RollbackError):
            accept(world, world.repository.targets_bytes)

    def test_that_jump_into_the_future_are_refused(self, world):
        draft = world.repository.next_targets(expires=world.now + YEAR, version=2**40)

        with pytest.raises(MetadataError):
            accept(world, sign(draft, *world.signers["targets"]))

    def test_that_expired_are_refused(self, world):
        draft = world.repository.next_targets(expires=world.now)

        with pytest.raises(ExpiredError):
            accept(world, sign(draft, *world.signers["targets"]))

    def test_that_lose_a_release_are_refused_unless_it_is_withdrawn(self, world):
        path = world.assigned(world.manifest).path
        draft = world.repository.next_targets(expires=world.now + YEAR, withdraw=[path])
        finished = sign(draft, *world.signers["targets"])

        with pytest.raises(WithdrawnError):
            accept(world, finished)
        assert path not in accept(world, finished, withdrawn=[path]).targets

    def test_that_change_a_release_are_refused(self, world, make_manifest):
        """Two releasers started from different documents."""
        mine = world.repository.targets_bytes
        world.release("1.1.0", 2)
        theirs = sign_release(
            [make_manifest("1.2.0", 3)],
            mine,
            world.signers["targets"][0],
            expires=world.now + YEAR,
            version=9,
        )

        with pytest.raises(WithdrawnError):
            accept(world, theirs)

    def test_need_the_threshold_of_release_keys(self, world):
        first, second = generate_signer(), generate_signer()
        both = RoleKeys((first.public_key, second.public_key), threshold=2)
        draft = next_root(
            world.repository.roots[-1], {"targets": both}, expires=world.now + 10 * YEAR
        )
        world.repository = world.repository.add_root(sign(draft, *world.signers["root"]))
        half = sign(world.repository.next_targets(expires=world.now + YEAR), first)

        with pytest.raises(SignatureError):
            accept(world, half)

        world.repository = accept(world, add_signature(half, Targets, second))
        world.publish()
        world.offer()
        assert len(world.state.floors["targets"].signers) == 2

    @pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b"[" * 9999])
    def test_that_are_no_metadata_are_refused(self, world, payload):
        with pytest.raises(MetadataError):
            accept(world, payload)
        with pytest.raises(MetadataError):
            world.repository.accept_acceptance(payload, now=world.now)
        with pytest.raises(MetadataError):
            world.repository.add_root(payload)


class TestDrafts:
    def test_refuse_a_version_that_was_released_with_other_bytes(self, world, make_manifest):
        with pytest.raises(MetadataError):
            world.repository.next_targets(
                expires=world.now + YEAR, add=[make_manifest("1.0.0", release=7)]
            )

    def test_add_the_same_release_twice_without_harm(self, world):
        draft = world.repository.next_targets(expires=world.now + YEAR, add=[world.manifest])

        assert dict(draft.signed.targets) == dict(world.repository.targets)

    def test_refuse_to_withdraw_or_roll_back_to_the_unknown(self, world):
        with pytest.raises(WithdrawnError):
            world.repository.next_targets(expires=world.now + YEAR, withdraw=["a/1.0.0/b/x"])
        with pytest.raises(WithdrawnError):
            world.repository.next_targets(expires=world.now + YEAR, allow_rollback=["0" * 64])

    def test_rollbacks_reach_the_device_and_end_with_their_release(self, world):
        digest = world.assigned(world.manifest).sha256
        world.change_targets(allow_rollback=[digest])
        world.release("1.1.0", 2)
        assert world.offer().rollbacks == {digest}

        world.change_targets(withdrawn=[world.assigned(world.manifest).path])

        assert world.offer(world.sign_as_director([], counter=9)).rollbacks == frozenset()

    @pytest.mark.parametrize("minimum", [0.95, 0.1, 1.0, 0.0, 97.25])
    def test_acceptance_sets_come_back_as_they_were_signed(self, world, minimum):
        wanted = AcceptanceSet("b" * 64, 7, minimum, "f1")
        world.set_acceptance(other=wanted)

        assert world.repository.acceptance["other"] == wanted
        assert world.offer().acceptance["other"] == wanted

    def test_an_acceptance_set_can_be_taken_back_by_its_own_role(self, world):
        world.set_acceptance(digits=None)

        assert dict(world.offer().acceptance) == {}


class TestSignRelease:
    def test_starts_from_nothing(self, world, make_manifest):
        finished = sign_release(
            [make_manifest()], None, world.signers["targets"][0], expires=world.now + YEAR
        )

        assert load(finished, Targets).signed.version == 1

    def test_does_not_sign_what_a_server_made_up(self, world, make_manifest):
        draft = world.repository.next_targets(
            expires=world.now + YEAR, add=[make_manifest("6.6.6", 666)]
        )
        made_up = sign(draft, generate_signer())

        for root in (None, world.first_root):
            with pytest.raises(SignatureError):
                sign_release([], made_up, world.signers["targets"][0], expires=YEAR, root=root)

    def test_takes_over_from_another_release_key_by_root(self, world):
        current = world.repository.targets_bytes

        finished = sign_release(
            [], current, generate_signer(), expires=world.now + YEAR, root=world.first_root
        )

        assert load(finished, Targets).signed.targets == world.repository.targets


class TestPublish:
    def test_keeps_a_snapshot_that_is_still_good(self, world):
        before = version_of(world.repository, "snapshot", Snapshot)
        world.advance(days=1)

        assert version_of(world.repository, "snapshot", Snapshot) == before

    def test_is_due_when_something_changed_or_grew_old(self, world):
        assert not world.repository.is_due(world.now + timedelta(hours=1))
        assert world.repository.is_due(world.now + timedelta(days=1))
        draft = world.repository.next_targets(expires=world.now + YEAR)
        assert accept(world, sign(draft, *world.signers["targets"])).is_due(world.now)
        world.rotate("timestamp", resign=False)
        assert world.repository.is_due(world.now)

    def test_with_a_key_that_root_does_not_name_is_refused(self, world):
        for wrong in ("snapshot", "timestamp"):
            signers = {role: world.signers[role][0] for role in ("snapshot", "timestamp")}
            with pytest.raises(SignatureError):
                world.repository.publish(
                    **{**signers, wrong: generate_signer()}, now=world.now, restored=True
                )

    def test_before_the_first_documents_is_refused(self, world):
        empty = ImageRepository.create(world.first_root)

        with pytest.raises(MetadataError):
            empty.publish(
                snapshot=world.signers["snapshot"][0],
                timestamp=world.signers["timestamp"][0],
                now=world.now,
            )
        with pytest.raises(MetadataError):
            empty.metadata_set()

    def test_does_not_hide_that_documents_of_lost_keys_must_be_signed_again(self, world):
        world.rotate("targets", resign=False)

        with pytest.raises(SignatureError):
            world.publish()

    def test_waits_for_a_new_release_key_to_sign(self, world):
        published = world.metadata_set()
        world.rotate("targets", resign=False)
        assert world.repository.awaited(world.now) == ("targets",)
        with pytest.raises(SignatureError):
            world.metadata_set()
        world.offer(metadata_set=published)

        draft = world.repository.next_targets(expires=world.now + YEAR)
        world.repository = accept(world, sign(draft, *world.signers["targets"]))

        assert world.repository.awaited(world.now) == ()
        world.publish()
        world.offer()

    def test_waits_for_what_expired_or_never_came(self, world):
        assert world.repository.awaited(world.now + YEAR) == ("acceptance", "targets")
        empty = ImageRepository.create(world.first_root)
        assert empty.awaited(world.now) == ("acceptance", "targets")

    def test_keeps_the_number_of_files_small(self, world):
        for _ in range(5):
            world.change_targets()
            world.set_acceptance()

        assert len(world.repository.files) == 1 + 1 + 3 * 2

    def test_says_until_when_documents_are_valid(self, world):
        assert dict(world.repository.expiries()) == {
            "root": world.now + 10 * YEAR,
            "targets": world.now + YEAR,
            "acceptance": world.now + YEAR,
        }

    def test_after_a_restore_jumps_past_all_that_was_issued(self, world):
        backup = world.repository
        for _ in range(9):
            world.advance(days=1)
        world.offer()
        world.repository = backup
        with world.refused(RollbackError):
            world.offer()

        world.publish(restored=True)

        world.offer()
        world.advance(days=1)
        world.offer()

    def test_a_jump_is_past_both_the_issued_and_the_clock(self, world):
        seconds = int(world.now.timestamp())
        assert jump_version(5, world.now) == seconds
        assert jump_version(seconds + 5, world.now) == seconds + 6


class TestStockClient:
    def test_reads_what_is_published_as_plain_files(self, world, tmp_path):
        """What a server offers over HTTP is an ordinary TUF repository."""

        class Files(FetcherInterface):
            def _fetch(self, url):
                name = url.rpartition("/")[2]
                if name not in world.repository.files:
                    raise DownloadHTTPError("none", 404)
                return iter([world.repository.files[name]])

        world.rotate("timestamp")
        updater = Updater(
            str(tmp_path),
            "x://x/",
            fetcher=Files(),
            bootstrap=world.first_root,
            config=UpdaterConfig(),
        )
        updater._trusted_set.reference_time = world.now
        target = updater.get_targetinfo(world.assigned(world.manifest).path)

        assert target is not None
        target.verify_length_and_hashes(world.manifest)


class TestFolder:
    def test_gives_back_what_was_written(self, world, tmp_path):
        folder = FolderMetadata(tmp_path / "trust")
        assert folder.read() == {}
        folder.write(world.repository.files)
        world.change_targets()
        world.rotate("timestamp")

        folder.write(world.repository.files)

        assert folder.read() == dict(world.repository.files)
        again = ImageRepository(folder.read())
        assert again.metadata_set() == world.metadata_set()

    def test_refuses_names_that_leave_it(self, tmp_path):
        for name in ("../x.json", "a/b.json", "timestamp"):
            with pytest.raises(ValueError, match="metadata file"):
                FolderMetadata(tmp_path).write({name: b""})
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("kill_after", range(6))
    def test_is_whole_after_a_kill_at_any_file(self, world, tmp_path, kill_after):
        class Killed(BaseException):
            pass

        class Dying(FolderMetadata):
            left = kill_after

            def _replace(self, name, data):
                if self.left == 0:
                    raise Killed
                self.left -= 1
                super()._replace(name, data)

        FolderMetadata(tmp_path / "trust").write(world.repository.files)
        before = world.metadata_set()
        world.release("1.1.0", 2)
        world.set_acceptance()
        try:
            Dying(tmp_path / "trust").write(world.repository.files)
        except Killed:
            kept = ImageRepository(FolderMetadata(tmp_path / "trust").read()).metadata_set()
            assert kept == before
        else:
            assert kill_after >= 5


class TestRoot:
    def test_acceptance_needs_keys_apart_from_the_release_keys(self, world):
        keys = {role: RoleKeys((one.public_key,)) for role, (one,) in world.signers.items()}
        with pytest.raises(ValueError, match="acceptance"):
            new_root({**keys, "acceptance": keys["targets"]}, expires=world.now + YEAR)
        with pytest.raises(ValueError, match="expected the roles"):
            new_root({**keys, "other": keys["root"]}, expires=world.now + YEAR)

    @pytest.mark.parametrize("threshold", [0, 2, -1])
    def test_a_threshold_that_no_keys_can_meet_is_refused(self, threshold):
        with pytest.raises(ValueError, match="threshold"):
            RoleKeys((generate_signer().public_key,), threshold)

    def test_rotation_needs_the_old_keys(self, world):
        new = generate_signer()
        draft = next_root(
            world.first_root, {"root": RoleKeys((new.public_key,))}, expires=world.now + YEAR
        )

        with pytest.raises(SignatureError):
            world.repository.add_root(sign(draft, new))

    def test_rotation_needs_the_new_keys(self, world):
        new = generate_signer()
        draft = next_root(
            world.first_root, {"root": RoleKeys((new.public_key,))}, expires=world.now + YEAR
        )

        with pytest.raises(SignatureError):
            world.repository.add_root(sign(draft, *world.signers["root"]))

    def test_every_role_can_be_rotated_while_a_device_sleeps(self, world):
        world.offer()
        for role in ("timestamp", "snapshot", "director", "acceptance", "targets", "root"):
            world.rotate(role)

        assert world.offer().targets
        names = {role: role_keys(world.repository.root, role) for role in world.signers}
        assert all(
            keys.keys == (world.signers[role][0].public_key,) for role, keys in names.items()
        )

    def test_two_of_three_must_sign(self, world):
        holders = [generate_signer() for _ in range(3)]
        keys = {role: RoleKeys((one.public_key,)) for role, (one,) in world.signers.items()}
        keys["root"] = RoleKeys(tuple(one.public_key for one in holders), threshold=2)
        draft = new_root(keys, expires=world.now + YEAR)

        with pytest.raises(SignatureError):
            ImageRepository.create(sign(draft, holders[0]))
        ImageRepository.create(sign(draft, holders[2]))


class TestCheckRelease:
    def test_allows_what_is_newer_equal_or_listed(self):
        check_release(3, "a", 2, ())
        check_release(2, "a", 2, ())
        check_release(1, "a", 2, {"a"})

    def test_refuses_older_releases(self):
        with pytest.raises(RollbackError) as caught:
            check_release(1, "a", 2, {"b"})

        assert (caught.value.offered, caught.value.installed) == (1, 2)


class TestState:
    def test_bytes_and_back(self, world):
        assert TrustState.from_bytes(world.state.to_bytes()) == world.state
        world.offer()
        assert TrustState.from_bytes(world.state.to_bytes()) == world.state

    def test_the_same_offer_again_changes_nothing(self, world):
        document = world.assign()
        first, state = world.offer(document), world.state

        assert world.offer(document) == first
        assert world.state == state

    @pytest.mark.parametrize(
        "damage",
        [
            lambda payload: b"",
            lambda payload: payload[:-1],
            lambda payload: payload.replace(b'"version":', b'"version":-'),
            lambda payload: payload.replace(b'"timestamp":{', b'"other":{'),
            lambda payload: payload.replace(b'"v":1', b'"v":2'),
            lambda payload: payload.replace(b'"root":"', b'"root":"*'),
            lambda payload: b"[" * 10_000,
        ],
    )
    def test_damage_is_noticed(self, world, damage):
        world.offer()

        with pytest.raises(MetadataError):
            TrustState.from_bytes(damage(world.state.to_bytes()))

    def test_a_root_that_did_not_sign_itself_is_no_start(self, world):
        unsigned = sign(load(world.first_root, type(world.repository.root)))
        broken = unsigned.replace(b'"sig":"', b'"sig":"00')

        with pytest.raises(SignatureError):
            TrustState.initial(broken)

    def test_offers_leave_no_files_behind(self, world, tmp_path):
        verify_offer(
            world.state,
            director=world.assign(),
            metadata_set=world.metadata_set(),
            tenant="default",
            device="camera-1",
            now=world.now,
            folder=world.folder,
        )

        assert not list(world.folder.iterdir())
