"""Joining a fleet over real TLS, and everybody who must not be able to answer in its place."""

import base64
import json
import os
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from downloading import DRIPPING
from fleet_world import TENANT, Certificates, Keys, plain_server

from edgec_agent.enrol import Wish, enrol, renew, renewal_is_due
from edgec_agent.errors import ConfigError, EnrolmentError, NetworkError, NotEnrolledError
from edgec_agent.identity import IdentityFolder
from edgec_agent.web import request_json

WISH = Wish("camera-7", ("rpi4",), {"site": "hall-2"})


@pytest.fixture
def server(blob_server):
    with plain_server({"/v1/enrolment": blob_server.enrolment()}) as url:
        yield url


def test_a_device_makes_its_key_and_gets_a_certificate(server, blob_server, tmp_path, fleet):
    identity = enrol(server, blob_server.token(), tmp_path, WISH)

    folder = IdentityFolder(tmp_path)
    assert folder.read() == identity
    assert (identity.device, identity.tenant) == ("camera-7", TENANT)
    assert identity.profiles == ("rpi4",)
    assert folder.root() == fleet.root
    certificate = folder.certificate()
    assert certificate.subject.rfc4514_string() == "CN=camera-7,O=default"
    pem = (tmp_path / "identity" / "device.pem").read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == certificate.public_key()


def test_the_key_is_for_the_owner_only(server, blob_server, tmp_path):
    enrol(server, blob_server.token(), tmp_path, WISH)

    mode = os.stat(tmp_path / "identity" / "device.pem").st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "identity").st_mode) == 0o700


@pytest.mark.parametrize("fault", DRIPPING.values(), ids=DRIPPING)
def test_an_answer_that_drips_is_not_waited_for_for_ever(fault):
    with (
        plain_server({"/v1/enrolment": lambda handler: fault(handler, b"")}) as url,
        pytest.raises(NetworkError, match=r"longer than 0.5 s"),
    ):
        request_json("GET", f"{url}/v1/enrolment", whole_s=0.5)


def test_a_token_works_once(server, blob_server, tmp_path):
    token = blob_server.token()
    enrol(server, token, tmp_path / "one", WISH)

    with pytest.raises(EnrolmentError, match="used before"):
        enrol(server, token, tmp_path / "two", WISH)

    assert not IdentityFolder(tmp_path / "two").exists


def test_an_enrolled_folder_is_left_alone(server, blob_server, tmp_path):
    enrol(server, blob_server.token(), tmp_path, WISH)
    before = IdentityFolder(tmp_path).certificate()

    with pytest.raises(ConfigError, match="enrolled already"):
        enrol(server, blob_server.token(), tmp_path, WISH)

    assert IdentityFolder(tmp_path).certificate() == before


def with_ca(answer, tmp_path):
    folder = tmp_path / "thief"
    folder.mkdir()
    return answer | {"ca": Certificates(folder).ca_pem}


def with_root(answer, tmp_path):
    return answer | {"root": base64.b64encode(Keys().root).decode()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_ca, "CA is not the one"),
        (with_root, "root is not the one"),
        (lambda a, _: a | {"ca": "garbage"}, "malformed"),
        (lambda a, _: a | {"root": "*"}, "malformed"),
        (lambda a, _: a | {"devices": "http://127.0.0.1:1"}, "https://"),
        (lambda a, _: {"error": "?"}, "expected ca, root and devices"),
        (lambda a, _: a | {"ca": 1}, "expected ca, root and devices"),
    ],
)
def test_who_answers_in_the_fleets_place_is_refused(blob_server, tmp_path, change, words):
    answer = change(blob_server.enrolment(), tmp_path)
    token = blob_server.token()

    with (
        plain_server({"/v1/enrolment": answer}) as url,
        pytest.raises(EnrolmentError, match=words),
    ):
        enrol(url, token, tmp_path / "device", WISH)

    assert not (tmp_path / "device").exists()
    assert list(blob_server.secrets.values()) == [False]  # the secret was not shown to anybody


def test_a_second_ca_smuggled_in_behind_the_first_is_not_believed(
    blob_server, tmp_path, certificates
):
    thief = tmp_path / "thief"
    thief.mkdir()
    two = certificates.ca_pem + Certificates(thief).ca_pem
    answer = blob_server.enrolment() | {"ca": two}

    with plain_server({"/v1/enrolment": answer}) as url:
        enrol(url, blob_server.token(), tmp_path / "device", WISH)

    kept = (tmp_path / "device" / "identity" / "ca.pem").read_bytes()
    assert len(x509.load_pem_x509_certificates(kept)) == 1


@pytest.mark.parametrize("token", ["", "edgec1.", "edgec2.xyz", "edgec1.!!!!", "x" * 10_000])
def test_a_malformed_token_is_said_to_be_malformed(tmp_path, token):
    with pytest.raises(EnrolmentError, match="not an enrolment token"):
        enrol("http://127.0.0.1:1", token, tmp_path, WISH)


def test_a_cut_token_is_said_to_be_cut(blob_server, tmp_path):
    with pytest.raises(EnrolmentError, match="not an enrolment token"):
        enrol("http://127.0.0.1:1", blob_server.token()[:-7], tmp_path, WISH)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff", b"{" * 5000, b"null"])
def test_nonsense_from_the_server_is_a_network_error(blob_server, tmp_path, body):
    with plain_server({"/v1/enrolment": body}) as url, pytest.raises(NetworkError):
        enrol(url, blob_server.token(), tmp_path, WISH)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://host", "nonsense", "http://[::1"])
def test_a_server_that_cannot_be_reached(blob_server, tmp_path, url):
    with pytest.raises(NetworkError):
        enrol(url, blob_server.token(), tmp_path, WISH)


def test_a_certificate_for_another_key_or_device_is_refused(
    server, blob_server, tmp_path, monkeypatch, certificates
):
    real = certificates.sign_csr
    monkeypatch.setattr(
        blob_server.certificates, "sign_csr", lambda text, name, **more: real(text, "camera-8")
    )

    with pytest.raises(EnrolmentError, match="expected 'camera-7'"):
        enrol(server, blob_server.token(), tmp_path, WISH)

    assert not IdentityFolder(tmp_path).exists


def test_renewal_changes_key_and_certificate_together(server, blob_server, tmp_path):
    identity = enrol(server, blob_server.token(), tmp_path, WISH)
    folder = IdentityFolder(tmp_path)
    before = folder.certificate()

    renew(folder, identity, folder.tls())

    after = folder.certificate()
    assert after.serial_number != before.serial_number
    assert after.public_key() != before.public_key()
    assert after.subject == before.subject
    folder.tls()  # key and certificate fit


def test_renewal_is_due_in_the_last_third(server, blob_server, tmp_path):
    enrol(server, blob_server.token(), tmp_path, WISH)
    certificate = IdentityFolder(tmp_path).certificate()
    end = certificate.not_valid_after_utc

    assert not renewal_is_due(certificate, datetime.now(UTC))
    assert renewal_is_due(certificate, end - timedelta(days=100))
    assert renewal_is_due(certificate, end + timedelta(days=1))
    assert not renewal_is_due(certificate, datetime(1970, 1, 1, tzinfo=UTC))  # a dead battery


def test_a_folder_without_identity_says_what_to_do(tmp_path):
    with pytest.raises(NotEnrolledError, match="edgec-agent enroll"):
        IdentityFolder(tmp_path).read()


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"device": "x"})])
def test_a_damaged_identity_is_said_to_be_damaged(tmp_path, content):
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "identity.json").write_text(content)

    with pytest.raises(ConfigError, match="damaged"):
        IdentityFolder(tmp_path).read()
