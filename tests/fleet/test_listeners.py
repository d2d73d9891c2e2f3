"""The listeners as processes: TLS, client certificates, and slow or rude clients."""

import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from mqtt_clients import LONG_S

from edgec_fleet import audit, enrolment
from edgec_fleet.db.schema import Device
from edgec_fleet.settings import Address
from edgec_fleet.worker import DEVICES_S, HEAD_S

pytestmark = pytest.mark.parametrize("template", ["sqlite"], indirect=True)


@pytest.fixture
def start(settings):
    """Return a function that starts a listener and returns (scheme, port)."""
    started = []

    def start(name, **changes):
        own = replace(settings, http=Address("127.0.0.1", 0), devices=Address("127.0.0.1", 0))
        own = replace(own, **changes)
        process = subprocess.Popen(
            [sys.executable, "-m", "edgec_fleet.web", name, *own.to_arguments()],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        ready = process.stdout.readline().split()
        assert ready[:1] == ["ready"], ready
        scheme, _, address = ready[1].partition("://")
        return scheme, Address.parse(address).port

    yield start
    for process in started:
        process.terminate()
    for process in started:
        assert process.wait(timeout=LONG_S) == 0
        process.stdout.close()


def ask(port, method, path, tls=None, body=None, **headers):
    make = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    options = {"context": tls} if tls else {}
    connection = make("127.0.0.1", port, timeout=LONG_S, **options)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json", **sent})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def client_tls(server, device=None, tmp_path=None):
    tls = ssl.create_default_context(cadata=server.authority.pem)
    if device is not None:
        pem = device.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (tmp_path / "device.pem").write_bytes(pem + device.pem.encode())
        tls.load_cert_chain(tmp_path / "device.pem")
    return tls


def test_a_device_enrols_fetches_and_is_revoked_over_real_tls(
    server, start, new_secret, new_device, tmp_path
):
    scheme, port = start("devices")
    device = new_device()
    anonymous = client_tls(server)
    body = {"secret": new_secret(), "csr": device.csr(), "device": "cam-1"}

    status, answer = ask(port, "POST", "/v1/enrol", anonymous, body)

    assert (scheme, status) == ("https", 200), answer
    device.pem = json.loads(answer)["certificate"]
    known = client_tls(server, device, tmp_path)
    with server.db.read() as session:
        from edgec_fleet.registry import trust_state

        current = trust_state.current_set(session, "default").sha256
    assert ask(port, "GET", f"/v1/blobs/{current}", anonymous)[0] == 401
    status, data = ask(port, "GET", f"/v1/blobs/{current}", known)
    assert (status, data) == (200, server.store.read(current))
    status, part = ask(port, "GET", f"/v1/blobs/{current}", known, Range="bytes=10-19")
    assert (status, part) == (206, data[10:20])
    assert ask(port, "POST", "/v1/renew", known, {"csr": device.csr()})[0] == 200
    with server.db.write() as session:
        enrolment.revoke(session, session.get_one(Device, "cam-1"), "stolen", audit.SYSTEM)
    assert ask(port, "GET", f"/v1/blobs/{current}", known)[0] == 403


def test_a_certificate_of_a_strange_ca_does_not_get_through_the_handshake(
    server, start, new_device, tmp_path
):
    from edgec_fleet.pki import Authority

    _, port = start("devices")
    device = new_device()
    thief = Authority.create(tmp_path / "thief")
    device.pem = thief.issue_device(
        device.key.public_key(), tenant="default", device="cam-1", days=1
    ).pem

    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        ask(port, "GET", "/v1/enrolment", client_tls(server, device, tmp_path))


def test_a_header_cannot_play_the_certificate(server, start):
    _, port = start("devices")

    status, _ = ask(
        port,
        "POST",
        "/v1/renew",
        client_tls(server),
        {"csr": "x"},
        gunicorn_socket="x",
        X_SSL_Client_Cert="x",
        SSL_CLIENT_S_DN="CN=cam-1",
    )

    assert status == 401


def test_the_operators_listener_is_plain_on_loopback_and_tls_elsewhere(server, start):
    plain, port = start("operators")
    assert plain == "http"
    assert ask(port, "GET", "/v1/health")[0] == 200

    encrypted, port = start("operators", http=Address("0.0.0.0", 0))
    assert encrypted == "https"
    assert ask(port, "GET", "/v1/health", client_tls(server))[0] == 200


def test_rude_clients_do_not_take_the_listener_down(server, start):
    _, port = start("devices")
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    for rude in idle[:10]:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
    for rude in idle[10:20]:
        rude.sendall(b"\x16\x03\x01")

    assert ask(port, "GET", "/v1/enrolment", client_tls(server))[0] == 200

    for rude in idle:
        rude.close()


def test_slow_clients_of_one_address_hold_up_nobody_else_and_are_cut_off(server, settings, start):
    replace(settings, http_threads=8, http_per_client=4).save()
    _, port = start("devices")
    slow = [
        socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
        for _ in range(24)
    ]
    for one in slow:
        one.sendall(b"\x16\x03\x01")  # a TLS handshake begins, and never goes on

    assert ask(port, "GET", "/v1/enrolment", client_tls(server))[0] == 200

    slow[0].settimeout(LONG_S)
    assert slow[0].recv(1) == b""  # cut off
    for one in slow:
        one.close()


HEAD = b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n"
DRIPS = {
    "head": (HEAD, b"A", HEAD_S),
    "body": (HEAD + b"Content-Type: application/json\r\n\r\n{", b" ", DEVICES_S),
}


def drip(connection, start, drop, most_s):
    connection.sendall(start)
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        connection.sendall(drop)
        time.sleep(0.2)


@pytest.mark.full
@pytest.mark.parametrize(("start_of_it", "drop", "most_s"), DRIPS.values(), ids=DRIPS)
def test_an_enrolment_that_drips_in_is_cut_off(server, start, start_of_it, drop, most_s):
    _, port = start("devices")
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        client_tls(server).wrap_socket(plain, server_hostname="127.0.0.1") as slow,
        pytest.raises((ConnectionError, ssl.SSLError)),
    ):
        drip(slow, start_of_it, drop, 4 * most_s + 60)

    assert ask(port, "GET", "/v1/enrolment", client_tls(server))[0] == 200


def test_old_tls_is_refused(server, start):
    _, port = start("devices")
    old = client_tls(server)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(port, "GET", "/v1/enrolment", old)


def test_an_unusable_folder_is_said_in_one_line(tmp_path, template):
    done = subprocess.run(
        [sys.executable, "-m", "edgec_fleet.web", "devices", "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "edgec-fleet init" in done.stderr
    assert len(done.stderr.splitlines()) == 1
