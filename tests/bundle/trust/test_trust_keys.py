"""Keys by URI, and enrolment tokens."""

import base64
import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import ManifestError, SignatureError, TrustError, WithdrawnError
from edgec_bundle.trust import (
    EnrolmentToken,
    generate_key,
    generate_signer,
    load_public,
    load_signer,
    new_secret,
    public_from_json,
    public_path,
    public_to_json,
    targets_path,
    verify_release,
)

TOKEN = EnrolmentToken("s" * 32, "default", sha256_hex(b"ca"), sha256_hex(b"root"))


class TestKeys:
    @pytest.mark.parametrize("scheme", ["ed25519", "ecdsa-sha2-nistp256", "rsassa-pss-sha256"])
    def test_a_generated_key_signs_and_its_public_half_verifies(self, tmp_path, scheme):
        path = tmp_path / "release.pem"
        made = generate_key(path, scheme)

        for uri in (f"file2:{path}", str(path), f"file2:{path}#{public_path(path)}"):
            signature = load_signer(uri).sign(b"payload")
            load_public(public_path(path)).verify_signature(signature, b"payload")
            assert signature.keyid == made.public_key.keyid

    def test_the_private_key_is_for_its_owner_only(self, tmp_path):
        generate_key(tmp_path / "release.pem")

        assert stat.S_IMODE((tmp_path / "release.pem").stat().st_mode) == 0o600

    def test_a_key_is_never_overwritten(self, tmp_path):
        generate_key(tmp_path / "release.pem")
        before = (tmp_path / "release.pem").read_bytes()

        with pytest.raises(FileExistsError):
            generate_key(tmp_path / "release.pem")
        assert (tmp_path / "release.pem").read_bytes() == before

    def test_an_unknown_scheme_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="ed25519"):
            generate_key(tmp_path / "release.pem", "md5")
        assert not list(tmp_path.iterdir())

    def test_halves_that_do_not_match_are_refused(self, tmp_path):
        generate_key(tmp_path / "one.pem")
        generate_key(tmp_path / "two.pem")

        with pytest.raises(TrustError):
            load_signer(f"file2:{tmp_path / 'one.pem'}#{tmp_path / 'two.pem.pub.json'}")

    @pytest.mark.parametrize(
        "uri",
        [
            "",
            "nothing-here.pem",
            "file2:/nowhere/x.pem",
            "carrier-pigeon:1#x",
            "awskms:alias/x",
            ":",
        ],
    )
    def test_a_key_that_is_not_there_is_said_in_one_line(self, uri):
        with pytest.raises(TrustError):
            load_signer(uri)

    def test_a_private_key_that_is_gone(self, tmp_path):
        generate_key(tmp_path / "release.pem")
        (tmp_path / "release.pem").write_bytes(b"not a key")

        with pytest.raises(TrustError):
            load_signer(str(tmp_path / "release.pem"))

    def test_public_keys_to_json_and_back(self):
        key = generate_signer().public_key

        assert public_from_json(public_to_json(key)) == key

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"[]",
            b"{}",
            b'{"keyid": 5}',
            b'{"keyid":"a","keytype":"x","scheme":"y"}',
            b"[" * 99,
        ],
    )
    def test_what_is_no_public_key_is_refused(self, payload):
        with pytest.raises(TrustError):
            public_from_json(payload)


class TestVerifyRelease:
    def test_accepts_what_is_listed(self, world):
        verify_release(world.manifest, world.first_root, world.repository.targets_bytes, world.now)

    def test_refuses_what_is_not(self, world, make_manifest):
        targets = world.repository.targets_bytes
        for other in (make_manifest("1.0.0", 2), make_manifest("1.1.0", 2)):
            with pytest.raises(WithdrawnError):
                verify_release(other, world.first_root, targets, world.now)
        with pytest.raises(ManifestError):
            verify_release(b"{}", world.first_root, targets, world.now)
        with pytest.raises(SignatureError):
            verify_release(
                world.manifest, world.first_root, world.repository.acceptance_bytes, world.now
            )

    def test_lies_beside_the_bundle(self, tmp_path):
        assert targets_path(tmp_path) == tmp_path / "targets.json"
        assert targets_path(tmp_path / "a.edgeb") == tmp_path / "a.edgeb.targets.json"


class TestEnrolmentToken:
    def test_text_and_back(self):
        assert EnrolmentToken.parse(f"  {TOKEN}\n") == TOKEN
        assert str(TOKEN).startswith("edgec1.")

    def test_does_not_show_its_secret_in_logs(self):
        assert TOKEN.secret not in repr(TOKEN)

    def test_fresh_secrets_fit_and_differ(self):
        assert new_secret() != new_secret()
        assert EnrolmentToken(new_secret(), "a", "0" * 64, "0" * 64)

    def test_pins_ca_and_root(self):
        TOKEN.check_fleet(b"ca", b"root")
        with pytest.raises(SignatureError):
            TOKEN.check_fleet(b"other", b"root")
        with pytest.raises(SignatureError):
            TOKEN.check_fleet(b"ca", b"other")

    @pytest.mark.parametrize(
        "change",
        [
            {"secret": "short"},
            {"secret": 5},
            {"tenant": "UPPER"},
            {"tenant": "a/b"},
            {"ca_sha256": "0"},
            {"root_sha256": None},
        ],
    )
    def test_malformed_parts_are_refused(self, change):
        parts = {
            "secret": TOKEN.secret,
            "tenant": TOKEN.tenant,
            "ca_sha256": TOKEN.ca_sha256,
            "root_sha256": TOKEN.root_sha256,
        }
        body = base64.urlsafe_b64encode(json.dumps({**parts, **change}).encode()).decode()

        with pytest.raises(TrustError):
            EnrolmentToken.parse("edgec1." + body.rstrip("="))

    def test_a_token_cut_short_is_refused(self):
        text = str(TOKEN)
        for end in range(len(text) - 1):
            with pytest.raises(TrustError):
                EnrolmentToken.parse(text[:end])

    @given(st.text(max_size=300))
    def test_any_other_text_is_refused(self, text):
        for candidate in (text, "edgec1." + text):
            with pytest.raises(TrustError):
                EnrolmentToken.parse(candidate)
