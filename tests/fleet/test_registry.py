"""Releases: every byte checked, signed here or elsewhere, published, withdrawn, kept fresh.

What the server publishes is judged by the real device code (`verify_offer`).
"""

import shutil
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from edgec_bundle.archive import open_bundle
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import BundleError, TrustError, WithdrawnError
from edgec_bundle.trust import (
    AcceptanceSet,
    AssignedTarget,
    Assignment,
    TrustState,
    generate_key,
    load_public,
    load_signer,
    public_path,
    sign,
    sign_assignment,
    sign_release,
    verify_offer,
)
from edgec_fleet import audit
from edgec_fleet.db.schema import (
    Assignment as AssignmentRow,
)
from edgec_fleet.db.schema import (
    Blob,
    Device,
    Model,
    Patch,
    Release,
    TrustSet,
    Variant,
    utcnow,
)
from edgec_fleet.errors import ConflictError, MissingKeyError, RefusedError, UnknownError
from edgec_fleet.initialise import initialise
from edgec_fleet.registry import acceptance, reach, releases, trust_state
from edgec_fleet.registry.publish import publish, take
from edgec_fleet.server import Server
from edgec_fleet.settings import Settings

ME = audit.Actor("tester")
NPZ = b"PK\x03\x04 an archive that only devices open"


def put(server, *paths, targets=None, tenant="default"):
    bundles = take(server, paths)
    with server.db.write() as session:
        return publish(server, session, tenant, bundles, targets, ME)


def get(server, version="1.0.0", model="digits"):
    with server.db.read() as session:
        return releases.get_release(session, "default", model, version)


def counts(server):
    with server.db.read() as session:
        return [session.query(table).count() for table in (Release, Variant, Blob, Model)]


def offer(server, path, digest, size, device="cam-1", profile="rpi4"):
    """Return what a fresh device makes of an assignment to this manifest."""
    with server.db.read() as session:
        current = trust_state.current_set(session, "default")
        root = trust_state.first_root(session, "default")
    now = utcnow()
    document = sign_assignment(
        Assignment(
            tenant="default",
            device=device,
            counter=1,
            issued=now,
            expires=now + timedelta(days=1),
            targets=(AssignedTarget(path, digest, size),),
        ),
        server.keystore("default").signer("director"),
    )
    verified, _ = verify_offer(
        TrustState.initial(root),
        director=document,
        metadata_set=server.store.read(current.sha256),
        tenant="default",
        device=device,
        now=now,
        profiles=[profile],
    )
    return verified


def offer_variant(server, variant):
    return offer(server, variant.target_path, variant.manifest_sha256, variant.manifest_bytes)


def test_a_published_release_is_taken_by_a_device(server, bundles):
    done = put(server, bundles.make(profile="rpi4"), bundles.make(profile="generic-arm64"))

    release = get(server)
    assert (release.state, done.sign_with) == ("published", None)
    assert [v.profile for v in release.variants] == ["generic-arm64", "rpi4"]
    taken = offer_variant(server, release.variants[1])
    assert [t.sha256 for t in taken.targets] == [release.variants[1].manifest_sha256]


def test_every_file_becomes_a_blob_and_only_run_time_roles_are_shipped(server, bundles):
    path = bundles.make()
    bundle = open_bundle(path)

    put(server, path)

    files = {f.role: f for f in get(server).variants[0].files}
    assert {role for role, file in files.items() if file.shipped} == {"model", "labels"}
    assert all(server.store.read(f.sha256) == bundle.read(role) for role, f in files.items())
    assert server.store.read(bundle.digest) == bundle.manifest_bytes


def test_measurements_beside_the_bundle_are_kept_for_showing(server, bundles):
    put(server, bundles.make())

    assert get(server).variants[0].measurements == {"latency_ms": {"p50": 1.5}}


def test_publishing_again_changes_nothing(server, bundles):
    path = bundles.make()
    put(server, path)
    before = counts(server)

    put(server, path)

    assert counts(server) == before


def test_a_bundle_for_a_new_profile_joins_its_release(server, bundles):
    put(server, bundles.make(profile="rpi4"))

    put(server, bundles.make(profile="generic-x86_64"))

    release = get(server)
    assert [(v.profile, v.signed) for v in release.variants] == [
        ("generic-x86_64", True),
        ("rpi4", True),
    ]


REFUSED = {
    "nothing": (lambda b: [], RefusedError),
    "two models": (lambda b: [b.make(), b.make(model="faces")], RefusedError),
    "two versions": (lambda b: [b.make(), b.make(version="1.1.0", release=2)], RefusedError),
    "one profile twice": (lambda b: [b.make(), b.make(content=b"other")], RefusedError),
    "no bundle at all": (lambda b: [damaged(b.make(), b"not a zip")], BundleError),
    "a bundle cut short": (lambda b: [cut(b.make())], BundleError),
    "a flipped byte of the model": (lambda b: [flipped(b.make())], BundleError),
}


def damaged(path, data):
    path.write_bytes(data)
    return path


def cut(path):
    return damaged(path, path.read_bytes()[:-200])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[data.index(b"weights")] ^= 1
    return damaged(path, bytes(data))


@pytest.mark.parametrize("template", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("make", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_release_is_refused_and_leaves_nothing(server, bundles, make, error):
    before = counts(server)

    with pytest.raises(error):
        put(server, *make(bundles))

    assert counts(server) == before


def test_other_bytes_under_a_published_name_are_refused(server, bundles):
    put(server, bundles.make())
    before = get(server).variants[0].manifest_sha256

    with pytest.raises(ConflictError, match="published before with other bytes"):
        put(server, bundles.make(content=b"tampered"))

    assert get(server).variants[0].manifest_sha256 == before


def test_a_release_number_belongs_to_one_version(server, bundles):
    put(server, bundles.make(version="1.0.0", release=1))

    with pytest.raises(ConflictError, match=r"release number 1 of digits is version 1\.0\.0"):
        put(server, bundles.make(version="1.1.0", release=1))
    with pytest.raises(ConflictError, match="has release number 1"):
        put(server, bundles.make(version="1.0.0", release=2, profile="generic-arm64"))


def test_two_publishers_at_once_both_end_up_signed(server, bundles):
    paths = [bundles.make(version=f"1.{n}.0", release=n + 1) for n in range(5)]
    failures = []

    def run(path):
        try:
            put(server, path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert all(get(server, f"1.{n}.0").state == "published" for n in range(5))
    offer_variant(server, get(server, "1.4.0").variants[0])


class TestReleaseKeyElsewhere:
    @pytest.fixture
    def key(self, tmp_path):
        generate_key(tmp_path / "release.pem")
        return tmp_path / "release.pem"

    @pytest.fixture
    def server(self, tmp_path, key):
        settings = Settings(dir=tmp_path / "apart")
        initialise(settings, public_keys={"targets": load_public(public_path(key))})
        opened = Server.open(settings)
        yield opened
        opened.close()

    def signed(self, key, paths, current=None):
        manifests = [open_bundle(path).manifest_bytes for path in paths]
        return sign_release(
            manifests, current, load_signer(str(key)), expires=utcnow() + timedelta(days=90)
        )

    def test_the_server_has_no_such_key(self, server):
        assert not server.keystore("default").holds("targets")

    def test_without_a_signature_a_release_waits_and_says_how(self, server, bundles):
        done = put(server, bundles.make())

        assert get(server).state == "unsigned"
        assert "edgec sign" in done.sign_with
        with server.db.write() as session:
            release = releases.get_release(session, "default", "digits", "1.0.0")
            with pytest.raises(MissingKeyError):
                releases.sign(server, session, release, ME)

    def test_a_finished_targets_json_publishes_it(self, server, bundles, key):
        first, second = bundles.make(), bundles.make(version="1.1.0", release=2)

        targets = self.signed(key, [first])
        put(server, first, targets=targets)
        put(server, second, targets=self.signed(key, [second], targets))

        assert (get(server).state, get(server, "1.1.0").state) == ("published", "published")
        offer_variant(server, get(server, "1.1.0").variants[0])

    def test_the_signature_may_come_later(self, server, bundles, key):
        path = bundles.make()
        put(server, path)

        put(server, path, targets=self.signed(key, [path]))

        assert get(server).state == "published"

    def test_a_targets_json_for_other_bundles_is_refused(self, server, bundles, key):
        path, other = bundles.make(), bundles.make(version="1.1.0", release=2)

        with pytest.raises(RefusedError, match="does not list"):
            put(server, path, targets=self.signed(key, [other]))

        assert counts(server)[:2] == [0, 0]

    def test_a_thiefs_signature_is_refused(self, server, bundles, tmp_path):
        generate_key(tmp_path / "thief.pem")
        path = bundles.make()

        with pytest.raises(TrustError):
            put(server, path, targets=self.signed(tmp_path / "thief.pem", [path]))

        assert counts(server)[:2] == [0, 0]

    def test_a_targets_json_that_loses_a_release_is_refused(self, server, bundles, key):
        first, second = bundles.make(), bundles.make(version="1.1.0", release=2)
        targets = self.signed(key, [first])
        put(server, first, targets=targets)
        forgetful = sign_release(
            [open_bundle(second).manifest_bytes],
            None,
            load_signer(str(key)),
            expires=utcnow() + timedelta(days=90),
            version=2,
        )

        with pytest.raises(WithdrawnError):
            put(server, second, targets=forgetful)

        assert get(server).state == "published"

    def test_garbage_as_targets_json_is_refused(self, server, bundles):
        for garbage in (b"{}", b"\0", b"[" * 10_000, b'{"signed":{"_type":"targets"}}'):
            with pytest.raises(TrustError):
                put(server, bundles.make(), targets=garbage)


class TestWithdrawal:
    def test_a_withdrawn_release_is_refused_by_devices(self, server, bundles):
        put(server, bundles.make())
        variant = get(server).variants[0]
        offer_variant(server, variant)

        with server.db.write() as session:
            release = releases.get_release(session, "default", "digits", "1.0.0")
            releases.withdraw(server, session, release, "it hallucinates", ME)

        assert get(server).state == "withdrawn"
        assert get(server).withdrawn_reason == "it hallucinates"
        with pytest.raises(WithdrawnError):
            offer_variant(server, variant)

    def test_the_others_stay(self, server, bundles):
        put(server, bundles.make())
        put(server, bundles.make(version="1.1.0", release=2))

        with server.db.write() as session:
            release = releases.get_release(session, "default", "digits", "1.0.0")
            releases.withdraw(server, session, release, "old", ME)

        offer_variant(server, get(server, "1.1.0").variants[0])

    def test_what_is_not_published_cannot_be_withdrawn(self, server, bundles):
        put(server, bundles.make())
        for expected in (None, ConflictError):
            with server.db.write() as session:
                release = releases.get_release(session, "default", "digits", "1.0.0")
                if expected is None:
                    releases.withdraw(server, session, release, "old", ME)
                else:
                    with pytest.raises(expected):
                        releases.withdraw(server, session, release, "old", ME)

    def test_publishing_a_withdrawn_release_again_does_not_sign_it(self, server, bundles):
        path = bundles.make()
        put(server, path)
        with server.db.write() as session:
            release = releases.get_release(session, "default", "digits", "1.0.0")
            releases.withdraw(server, session, release, "old", ME)

        put(server, path)

        assert get(server).state == "withdrawn"


class TestAcceptance:
    def test_devices_get_the_set_with_the_next_offer(self, server, bundles):
        put(server, bundles.make())
        with server.db.write() as session:
            acceptance.set_acceptance(server, session, "default", "digits", NPZ, 0.95, ME)

        taken = offer_variant(server, get(server).variants[0])

        assert taken.acceptance["digits"].minimum == 0.95
        assert server.store.read(taken.acceptance["digits"].sha256) == NPZ

    def test_a_model_line_may_have_a_set_before_its_first_release(self, server):
        with server.db.write() as session:
            model = acceptance.set_acceptance(server, session, "default", "new", NPZ, 0.5, ME)

        assert model.acceptance_sha256 == sha256_hex(NPZ)

    def test_a_set_can_be_taken_away(self, server):
        with server.db.write() as session:
            acceptance.set_acceptance(server, session, "default", "digits", NPZ, 0.5, ME)
            model = acceptance.remove_acceptance(server, session, "default", "digits", ME)

        assert model.acceptance_sha256 is None

    @pytest.mark.parametrize("template", ["sqlite"], indirect=True)
    @pytest.mark.parametrize(
        ("model", "data", "minimum"),
        [
            ("Digits", NPZ, 0.5),
            ("../x", NPZ, 0.5),
            ("digits", b"", 0.5),
            ("digits", b"not a zip", 0.5),
            ("digits", NPZ, 1.5),
            ("digits", NPZ, -0.1),
            ("digits", NPZ, float("nan")),
        ],
    )
    def test_a_bad_set_is_refused(self, server, model, data, minimum):
        with pytest.raises(RefusedError), server.db.write() as session:
            acceptance.set_acceptance(server, session, "default", model, data, minimum, ME)

    def test_a_document_signed_elsewhere_needs_its_data(self, server):
        keystore = server.keystore("default")
        with server.db.write() as session:
            repository = trust_state.repository_of(session, "default")
            entry = AcceptanceSet(sha256_hex(NPZ), len(NPZ), 0.9)
            draft = repository.next_acceptance(
                {"digits": entry}, expires=utcnow() + timedelta(days=9)
            )
            document = sign(draft, keystore.signer("acceptance"))

        def send(data):
            with server.db.write() as session:
                return acceptance.publish_acceptance(
                    server, session, "default", "digits", data, document, ME
                )

        with pytest.raises(RefusedError, match="is not here"):
            send(None)
        assert send(NPZ).acceptance_minimum == 0.9

    def test_the_release_key_cannot_set_acceptance(self, server):
        with server.db.write() as session:
            repository = trust_state.repository_of(session, "default")
            draft = repository.next_acceptance({}, expires=utcnow() + timedelta(days=9))
            document = sign(draft, server.keystore("default").signer("targets"))

        with pytest.raises(TrustError), server.db.write() as session:
            acceptance.publish_acceptance(server, session, "default", "digits", None, document, ME)


class TestRefresh:
    def refresh(self, server, days):
        return trust_state.refresh(server, utcnow() + timedelta(days=days))

    def current(self, server):
        with server.db.read() as session:
            return trust_state.current_set(session, "default")

    def test_what_is_fresh_stays_as_it_is(self, server):
        before = self.current(server).sha256

        assert trust_state.refresh(server) == ()
        assert self.current(server).sha256 == before

    def test_after_a_day_the_timestamp_is_signed_anew(self, server):
        before = self.current(server)

        assert self.refresh(server, days=2) == ("default",)

        after = self.current(server)
        assert after.generation == before.generation + 1
        assert after.expires_at > before.expires_at

    def test_before_they_end_targets_and_acceptance_are_renewed(self, server):
        assert self.refresh(server, days=365 - 30) == ("default",)

        with server.db.read() as session:
            ends = trust_state.repository_of(session, "default").expiries()
        assert min(ends["targets"], ends["acceptance"]) > utcnow() + timedelta(days=365 + 300)

    def test_old_sets_are_dropped_and_the_newest_kept(self, server):
        for day in range(2, 60, 2):
            self.refresh(server, day)

        with server.db.read() as session:
            kept = session.scalars(select(Blob).where(Blob.kind == "metadata")).all()
            newest = session.get_one(TrustSet, "default").sha256
        assert len(kept) == 20
        assert newest in {row.sha256 for row in kept}
        assert all(server.store.has(row.sha256) for row in kept)

    def test_a_tenant_without_online_keys_does_not_hold_up_the_others(self, server, people):
        people.other_tenant("broken")
        shutil.rmtree(server.settings.keys_dir / "tenants" / "broken")

        assert self.refresh(server, days=2) == ("default",)

    def test_tenants_do_not_share_their_trust(self, server, people, bundles):
        other = people.other_tenant()
        put(server, bundles.make(), tenant=other)

        with server.db.read() as session:
            ours = trust_state.repository_of(session, "default")
            theirs = trust_state.repository_of(session, other)
        assert (len(ours.targets), len(theirs.targets)) == (0, 1)
        assert ours.root.keys.keys().isdisjoint(theirs.root.keys)
        with pytest.raises(UnknownError):
            get(server)


class TestReach:
    @pytest.fixture
    def assigned(self, server, bundles):
        """A device that is assigned digits 1.0.0 and not 1.1.0."""
        put(server, bundles.make())
        put(server, bundles.make(version="1.1.0", release=2))
        variant = get(server).variants[0]
        target = {
            "path": variant.target_path,
            "sha256": variant.manifest_sha256,
            "bytes": variant.manifest_bytes,
        }
        with server.db.write() as session:
            session.add(Device(id="cam-1", tenant="default"))
            session.flush()
            session.add(
                AssignmentRow(device_id="cam-1", counter=1, tenant="default", targets=[target])
            )
        return variant

    def may(self, server, digest):
        with server.db.read() as session:
            return reach.may_fetch(session, session.get_one(Device, "cam-1"), digest)

    def test_what_it_is_assigned_it_may_fetch(self, server, assigned):
        shipped = {f.role: f.sha256 for f in assigned.files}

        assert self.may(server, assigned.manifest_sha256)
        assert self.may(server, shipped["model"])
        with server.db.read() as session:
            assert self.may(server, trust_state.current_set(session, "default").sha256)

    def test_everything_else_is_out_of_reach(self, server, assigned):
        other = get(server, "1.1.0").variants[0]
        model = next(f.sha256 for f in other.files if f.role == "model")
        report = next(f.sha256 for f in assigned.files if f.role == "report")
        strange = server.store.put(b"nobody's")

        assert not self.may(server, other.manifest_sha256)
        assert not self.may(server, model)
        assert not self.may(server, strange)
        assert report == next(f.sha256 for f in other.files if f.role == "report")
        assert not self.may(server, report)

    def test_patches_and_the_acceptance_set_come_with_the_model(self, server, assigned):
        model = next(f.sha256 for f in assigned.files if f.role == "model")
        patch, foreign = server.store.put(b"patch"), server.store.put(b"foreign patch")
        with server.db.write() as session:
            for digest, new in ((patch, model), (foreign, "f" * 64)):
                session.add(Blob(tenant="default", sha256=digest, bytes=5, kind="patch"))
                session.add(
                    Patch(
                        tenant="default",
                        base_sha256="a" * 64,
                        new_sha256=new,
                        format="bsdiff4",
                        state="ready",
                        sha256=digest,
                        bytes=5,
                    )
                )
            acceptance.set_acceptance(server, session, "default", "digits", NPZ, 0.9, ME)
            acceptance.set_acceptance(server, session, "default", "faces", NPZ + b"2", 0.9, ME)

        assert self.may(server, patch)
        assert not self.may(server, foreign)
        assert self.may(server, sha256_hex(NPZ))
        assert not self.may(server, sha256_hex(NPZ + b"2"))


def test_signers_may_be_uris_in_the_settings(tmp_path):
    generate_key(tmp_path / "elsewhere.pem")
    settings = Settings(
        dir=tmp_path / "fleet", signers={"timestamp": f"file2:{tmp_path / 'elsewhere.pem'}"}
    )

    initialise(settings)

    server = Server.open(Settings.load(settings.dir))
    assert not server.keystore("default").path("timestamp").exists()
    assert trust_state.refresh(server) == ()
    server.close()


def test_a_foreign_key_cannot_publish_a_root(server):
    with server.db.write() as session:
        root = trust_state.first_root(session, "default")
        with pytest.raises(TrustError):
            trust_state.add_root(server, session, "default", root)
