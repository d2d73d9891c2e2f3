"""Certificates: issued for what the server says, renewed, revoked, and spoken over real TLS."""

import socket
import ssl
import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgec_fleet import audit, enrolment, pki
from edgec_fleet.db.schema import Certificate, Device, DeviceEvent, utcnow
from edgec_fleet.errors import ConflictError, ForbiddenError, RefusedError, SettingsError
from edgec_fleet.pki import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("ca"))


def csr_of(key, name="anything", signed_by=None):
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    request = builder.sign(signed_by or key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def test_the_ca_is_read_back_and_never_overwritten(tmp_path):
    made = Authority.create(tmp_path)

    assert Authority.load(tmp_path).sha256 == made.sha256
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsError, match="exists already"):
        Authority.create(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAA==\n"])
def test_a_damaged_ca_key_is_said(tmp_path, damage):
    Authority.create(tmp_path)
    (tmp_path / "ca.key").write_bytes(damage)

    with pytest.raises(SettingsError, match="cannot read the fleet CA"):
        Authority.load(tmp_path)


def test_a_device_certificate_says_what_the_server_decided(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    public = pki.read_csr(csr_of(key, name="i-am-the-admin"))

    issued = authority.issue_device(public, tenant="acme", device="cam-1", days=30)

    subject = issued.certificate.subject
    usage = issued.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "cam-1"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "acme"
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert issued.certificate.not_valid_after_utc - utcnow() < timedelta(days=30, seconds=1)
    issued.certificate.verify_directly_issued_by(authority.certificate)


def forged():
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    honest, foreign = csr_of(key), csr_of(other)
    lines, wrong = honest.splitlines(), foreign.splitlines()
    return "\n".join([*lines[:-3], *wrong[-3:]])


BAD_REQUESTS = {
    "empty": "",
    "not PEM": "hello",
    "a certificate header only": "-----BEGIN CERTIFICATE REQUEST-----\n",
    "not base64": "-----BEGIN CERTIFICATE REQUEST-----\n!!\n-----END CERTIFICATE REQUEST-----\n",
    "not ASCII": "\N{SNOWMAN}" * 10,
    "a NUL": "\0",
    "far too long": "A" * 100_000,
    "an RSA key": csr_of(rsa.generate_private_key(65537, 2048)),
    "another curve": csr_of(ec.generate_private_key(ec.SECP384R1())),
    "signed by another key": forged(),
}


@pytest.mark.parametrize("pem", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_bad_signing_request_is_refused(pem):
    with pytest.raises(RefusedError):
        pki.read_csr(pem)


def test_the_server_certificate_is_kept_until_it_does_not_fit(authority, tmp_path):
    first = pki.ensure_server_files(authority, tmp_path, ["localhost", "127.0.0.1"])
    before = first.certificate.read_bytes()

    pki.ensure_server_files(authority, tmp_path, ["localhost", "127.0.0.1"])
    assert first.certificate.read_bytes() == before

    pki.ensure_server_files(authority, tmp_path, ["fleet.example.org", "127.0.0.1"])
    assert first.certificate.read_bytes() != before
    assert first.key.stat().st_mode & 0o777 == 0o600


def test_a_server_certificate_of_another_ca_is_replaced(authority, tmp_path):
    files = pki.ensure_server_files(authority, tmp_path, ["localhost"])
    before = files.certificate.read_bytes()

    pki.ensure_server_files(Authority.create(tmp_path / "other"), tmp_path, ["localhost"])

    assert files.certificate.read_bytes() != before


@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_a_damaged_server_certificate_is_replaced(authority, tmp_path, damage):
    files = pki.ensure_server_files(authority, tmp_path, ["localhost"])
    files.certificate.write_bytes(damage)

    pki.ensure_server_files(authority, tmp_path, ["localhost"])

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)


def test_device_and_server_meet_over_mutual_tls(authority, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_device(key.public_key(), tenant="t", device="cam-1", days=1)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "device.pem").write_bytes(pem + issued.pem.encode())
    files = pki.ensure_server_files(authority, tmp_path, ["localhost"])
    accept = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accept.load_cert_chain(files.certificate, files.key)
    accept.load_verify_locations(files.ca)
    accept.verify_mode = ssl.CERT_REQUIRED
    connect = ssl.create_default_context(cadata=authority.pem)
    connect.load_cert_chain(tmp_path / "device.pem")
    ours, theirs = socket.socketpair()
    seen = []

    def serve():
        with accept.wrap_socket(theirs, server_side=True) as tls:
            seen.append(tls.getpeercert(binary_form=True))
            tls.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with connect.wrap_socket(ours, server_hostname="localhost") as tls:
        tls.send(b"x")
    thread.join()

    assert x509.load_der_x509_certificate(seen[0]).serial_number == int(issued.serial, 16)


def test_the_crl_lists_the_revoked_and_is_signed(server, tmp_path, new_secret, new_device):
    device = new_device()
    device.enrol(new_secret(), device="cam-1")
    with server.db.write() as session:
        enrolment.revoke(session, session.get_one(Device, "cam-1"), "stolen", audit.SYSTEM)
        pki.write_crl(session, server.authority, tmp_path / "crl.pem")
        serial = session.get_one(Device, "cam-1").certificate_serial

    crl = x509.load_pem_x509_crl((tmp_path / "crl.pem").read_bytes())

    assert crl.is_signature_valid(server.authority.certificate.public_key())
    assert [f"{entry.serial_number:x}" for entry in crl] == [serial]


BAD_WISHES = {
    "an id with capitals": {"device": "Cam"},
    "an id with a slash": {"device": "a/b"},
    "an id with a newline at its end": {"device": "cam\n"},
    "an id with a wildcard": {"device": "+"},
    "an empty id": {"device": ""},
    "a long id": {"device": "a" * 64},
    "an id that is no text": {"device": 5},
    "a profile that is no name": {"profiles": ["../etc"]},
    "a thousand profiles": {"profiles": ["a"] * 1000},
    "a tag that is no text": {"tags": {"a": {"b": 1}}},
    "a tag with a NUL": {"tags": {"a": "b\0"}},
    "a tag name with spaces": {"tags": {"a b": "c"}},
    "a hundred tags": {"tags": {f"t{n}": "x" for n in range(100)}},
    "tags that are a list": {"tags": ["a"]},
    "a csr that is no text": {"csr": None},
    "a field nobody knows": {"admin": True},
}


class TestEnrolment:
    def test_a_token_makes_a_device_with_a_timeline_and_an_audit_entry(
        self, server, new_secret, new_device
    ):
        answer = new_device().enrol(
            new_secret(tags={"site": "berlin"}),
            device="cam-1",
            profiles=["rpi4", "generic-arm64"],
            tags={"site": "mars", "room": "3"},
        )

        assert answer.status_code == 200
        assert answer.json["device"] == "cam-1"
        assert answer.json["mqtt"] == {"host": "127.0.0.1", "port": 8883}
        with server.db.read() as session:
            device = session.get_one(Device, "cam-1")
            assert device.profiles == ["rpi4", "generic-arm64"]
            assert device.tags == {"site": "berlin", "room": "3"}
            assert [e.kind for e in session.query(DeviceEvent)] == ["enrolled"]
            assert session.get_one(Certificate, device.certificate_serial).subject == "cam-1"

    def test_without_a_wish_the_server_names_the_device(self, new_secret, new_device):
        assert new_device().enrol(new_secret()).json["device"].startswith("device-")

    def test_a_used_token_is_refused_to_another_key(self, server, new_secret, new_device):
        secret = new_secret()
        new_device().enrol(secret, device="cam-1")

        answer = new_device().enrol(secret, device="cam-2")

        assert answer.status_code == 403
        with server.db.read() as session:
            assert session.get(Device, "cam-2") is None

    def test_the_same_key_gets_its_certificate_again(self, server, new_secret, new_device):
        secret, device = new_secret(), new_device()
        first = device.enrol(secret, device="cam-1")

        again = device.enrol(secret, device="cam-1")

        assert (first.status_code, again.status_code) == (200, 200)
        assert again.json["device"] == "cam-1"
        with server.db.read() as session:
            assert session.query(Device).count() == 1

    def test_a_token_for_several_devices_ends_at_its_number(self, new_secret, new_device):
        secret = new_secret(max_uses=2)

        codes = [new_device().enrol(secret).status_code for _ in range(3)]

        assert codes == [200, 200, 403]

    def test_at_once_one_use_stays_one_use(self, server, new_secret, new_device):
        secret, codes = new_secret(), []
        devices = [new_device() for _ in range(6)]
        threads = [
            threading.Thread(target=lambda d=d: codes.append(d.enrol(secret).status_code))
            for d in devices
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(codes) == [200, 403, 403, 403, 403, 403]

    def test_a_taken_id_costs_no_use(self, new_secret, new_device):
        new_device().enrol(new_secret(), device="cam-1")
        secret, device = new_secret(), new_device()

        assert device.enrol(secret, device="cam-1").status_code == 409
        assert device.enrol(secret, device="cam-2").status_code == 200

    def test_ids_are_unique_over_all_tenants(self, people, new_secret, new_device):
        new_device().enrol(new_secret(), device="cam-1")

        answer = new_device().enrol(new_secret(people.other_tenant()), device="cam-1")

        assert answer.status_code == 409

    def test_expired_and_revoked_tokens_are_refused(self, server, new_secret, new_device):
        with pytest.raises(RefusedError):
            new_secret(valid=timedelta(0))
        secret = new_secret()
        with server.db.write() as session:
            from edgec_fleet.db.schema import EnrolmentToken

            session.query(EnrolmentToken).one().expires_at = utcnow() - timedelta(seconds=1)

        assert new_device().enrol(secret).status_code == 403

    def test_guessing_tokens_is_slowed_down_and_honest_devices_are_not(
        self, new_secret, new_device
    ):
        device, secret = new_device(), new_secret(max_uses=100)
        assert all(new_device().enrol(secret).status_code == 200 for _ in range(35))

        codes = [device.enrol(f"guess {n}").status_code for n in range(62)]  # two windows' worth

        assert codes[0] == 403
        assert codes[-1] == 429
        assert set(codes) == {403, 429}

    @pytest.mark.parametrize("template", ["sqlite"], indirect=True)
    @pytest.mark.parametrize("wish", BAD_WISHES.values(), ids=BAD_WISHES.keys())
    def test_a_bad_wish_is_refused_and_changes_nothing(self, server, new_secret, new_device, wish):
        secret = new_secret()

        answer = new_device().enrol(secret, **wish)

        assert answer.status_code == 422, answer.json
        assert answer.json["error"]
        with server.db.read() as session:
            assert session.query(Device).count() == 0
        assert new_device().enrol(secret).status_code == 200


class TestRenewalAndRevocation:
    def test_a_device_renews_and_both_certificates_work(self, server, new_secret, new_device):
        device = new_device()
        device.enrol(new_secret(), device="cam-1")
        old = device.tls.certificate

        answer = device.call("POST", "/v1/renew", json={"csr": device.csr()})

        assert answer.status_code == 200
        device.use(answer.json["certificate"])
        assert device.tls.certificate != old
        assert device.call("POST", "/v1/renew", json={"csr": device.csr()}).status_code == 200
        device.tls.certificate = old
        assert device.call("POST", "/v1/renew", json={"csr": device.csr()}).status_code == 200

    def test_without_a_certificate_nothing_but_enrolment_works(self, new_device):
        device = new_device()

        assert device.call("POST", "/v1/renew", json={"csr": "x"}).status_code == 401
        assert device.call("GET", f"/v1/blobs/{'a' * 64}").status_code == 401
        assert device.call("GET", "/v1/enrolment").status_code == 200

    def test_a_revoked_device_is_out_at_the_next_request(self, server, new_secret, new_device):
        device, secret = new_device(), new_secret()
        device.enrol(secret, device="cam-1")
        with server.db.write() as session:
            enrolment.revoke(session, session.get_one(Device, "cam-1"), "stolen", audit.SYSTEM)

        assert device.call("POST", "/v1/renew", json={"csr": device.csr()}).status_code == 403
        assert device.enrol(secret).status_code == 403
        with pytest.raises(ConflictError), server.db.write() as session:
            enrolment.revoke(session, session.get_one(Device, "cam-1"), "again", audit.SYSTEM)

    def test_a_certificate_that_we_never_issued_is_refused(self, server, new_device):
        device = new_device()
        stray = server.authority.issue_device(
            device.key.public_key(), tenant="default", device="cam-1", days=1
        )
        device.use(stray.pem)

        assert device.call("POST", "/v1/renew", json={"csr": device.csr()}).status_code == 403

    def test_a_server_certificate_is_no_device(self, server, new_secret, new_device):
        device = new_device()
        device.enrol(new_secret(), device="cam-1")
        issued = server.authority.issue_server(device.key.public_key(), ["cam-1"])
        with server.db.write() as session:
            pki.remember(session, issued, tenant="default", kind="server", subject="cam-1")

        der = issued.certificate.public_bytes(serialization.Encoding.DER)
        with pytest.raises(ForbiddenError), server.db.read() as session:
            enrolment.identify(session, der)
