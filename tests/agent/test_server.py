import gzip
import select
import socket
import stat
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from doubles import INFER, LIMITS, RUNTIMES, load, rows, wait_until
from wire import Wire, answers_as_ever, binary_body, infer_body

from edgec_agent.errors import AddressError
from edgec_agent.limits import Limits
from edgec_agent.server import serve


def test_requests_sent_ahead_are_answered_in_order(wire):
    body = [infer_body(np.full((1, 4), n, np.float32), id=str(n)) for n in range(20)]
    heads = [
        f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(b)}\r\n\r\n".encode()
        for b in body
    ]
    wire.send(b"".join(head + b for head, b in zip(heads, body, strict=True)))

    answers = [wire.answer() for _ in range(20)]

    assert [a.json["id"] for a in answers] == [str(n) for n in range(20)]
    assert [a.json["outputs"][0]["data"][0] for a in answers] == [2 * n for n in range(20)]


def test_a_body_in_chunks_is_accepted(wire):
    body, headers = binary_body(rows(2))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {INFER} HTTP/1.1\r\nHost: x.localhost:1\r\n{lines}Transfer-Encoding: chunked\r\n"
    head = head.replace("x.localhost", "localhost")
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(c), c) for c in (body[:1], body[1:50], body[50:]))
    wire.send(head.encode() + b"\r\n" + chunks + b"0\r\nTrailer: yes\r\n\r\n")

    assert wire.answer().json["outputs"][0]["data"] == (2 * rows(2)).ravel().tolist()
    assert wire.request("GET", "/v2").status == 200


def test_a_body_that_waits_for_leave_gets_it(wire):
    body = infer_body(rows())
    wire.send(
        f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
    )
    assert wire.answer().status == 100
    wire.send(body)
    assert wire.answer().status == 200


def test_a_request_may_come_byte_by_byte(wire):
    for byte in b"\r\nGET /v2/health/live HTTP/1.1\r\nHost: [::1]:80\r\n\r\n":
        wire.send(bytes([byte]))
    assert wire.answer().json == {"live": True}


def test_head_has_the_headers_and_no_body(wire):
    answer = wire.request("HEAD", "/v2")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0
    assert wire.request("GET", "/v2").status == 200


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: Close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
def test_the_connection_stays_as_the_client_wishes(wire, version, connection, stays):
    wire.send(f"GET /v2 HTTP/{version}\r\nHost: localhost\r\n{connection}\r\n".encode())

    assert wire.answer().headers["connection"] == ("keep-alive" if stays else "close")
    if stays:
        assert wire.request("GET", "/v2").status == 200
    else:
        assert wire.closed()


HOST = "Host: localhost\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param("GET /v2\r\n\r\n", 400, id="no version"),
        pytest.param("GET  /v2 HTTP/1.1\r\n" + HOST + "\r\n", 400, id="two spaces"),
        pytest.param("G@T /v2 HTTP/1.1\r\n" + HOST + "\r\n", 400, id="odd method"),
        pytest.param("GET /v2 HTTP/2.0\r\n" + HOST + "\r\n", 505, id="version 2"),
        pytest.param("GET /v2 HTTX/1.1\r\n" + HOST + "\r\n", 400, id="no http"),
        pytest.param("GET v2 HTTP/1.1\r\n" + HOST + "\r\n", 400, id="relative path"),
        pytest.param("GET /%ff HTTP/1.1\r\n" + HOST + "\r\n", 400, id="path no utf-8"),
        pytest.param("GET /\x01 HTTP/1.1\r\n" + HOST + "\r\n", 400, id="control character"),
        pytest.param("GET /v2 HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param("GET /v2 HTTP/1.1\r\n" + HOST * 2 + "\r\n", 400, id="host twice"),
        pytest.param("GET /v2 HTTP/1.1\r\n" + HOST + "A b: c\r\n\r\n", 400, id="space in name"),
        pytest.param("GET /v2 HTTP/1.1\r\n" + HOST + "A : c\r\n\r\n", 400, id="space before colon"),
        pytest.param("GET /v2 HTTP/1.1\r\n" + HOST + "A: c\r\n d\r\n\r\n", 400, id="folded"),
        pytest.param("GET /v2 HTTP/1.1\r\n" + HOST + "A: c\nB: d\r\n\r\n", 400, id="line feed"),
        pytest.param("GET /v2 HTTP/1.1\r\n" + HOST + "A: \x00\r\n\r\n", 400, id="zero byte"),
        pytest.param("GET /v2 HTTP/1.1\r\n" + HOST + "nonsense\r\n\r\n", 400, id="no colon"),
        pytest.param(
            "GET /v2 HTTP/1.1\r\n" + HOST + "A: b\r\n" * 99 + "\r\n", 431, id="99 headers"
        ),
        pytest.param("GET /" + "a" * 9000 + " HTTP/1.1\r\n" + HOST + "\r\n", 431, id="long path"),
        pytest.param("a" * 70_000, 431, id="no line at all"),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
            400,
            id="two lengths",
        ),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: 4\r\n"
            "Transfer-Encoding: chunked\r\n\r\n",
            400,
            id="length and chunks",
        ),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            id="other coding",
        ),
        pytest.param(f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: +4\r\n\r\n", 400, id="+4"),
        pytest.param(f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: 4_0\r\n\r\n", 400, id="4_0"),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: 200001\r\n\r\n", 413, id="too long"
        ),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: {'9' * 15}\r\n\r\n", 413, id="absurd"
        ),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Expect: tea\r\nContent-Length: 4\r\n\r\n",
            417,
            id="expects tea",
        ),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nxx\r\n",
            400,
            id="chunk size no number",
        ),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n-1\r\n",
            400,
            id="negative chunk",
        ),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nfffffff\r\n",
            413,
            id="huge chunk",
        ),
        pytest.param(
            f"POST {INFER} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
            400,
            id="chunk without end",
        ),
    ],
)
def test_a_malformed_request_ends_its_connection_and_no_other(server, wire, head, status):
    wire.send(head.encode("latin-1"))

    answer = wire.answer()

    assert answer.status == status
    assert answer.error
    assert answer.headers["connection"] == "close"
    assert wire.closed()
    assert answers_as_ever(server)


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("gzip", b"no gzip", 400),
        ("deflate", b"\xff" * 9, 400),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"x", 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + bytes(9000), 400),
        ("gzip", gzip.compress(bytes(300_000), mtime=0), 413),
        ("deflate", zlib.compress(bytes(190_000_000)), 413),
        ("gzip", b"\x1f\x8b\x08", 400),
    ],
)
def test_a_damaged_or_swelling_body_is_refused(server, wire, coding, body, status):
    answer = wire.request("POST", INFER, body, {"Content-Encoding": coding})

    assert answer.status == status
    assert answers_as_ever(server)


SLOW = {
    "head": (Limits(header_s=0.1), b"GET /v2 HTTP/1.1\r\nHost: loc"),
    "body": (
        Limits(body_s=0.1),
        f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: 100\r\n\r\n{{".encode(),
    ),
}


@pytest.mark.parametrize(("limits", "beginning"), SLOW.values(), ids=SLOW)
def test_a_slow_request_is_given_up_and_its_connection_ended(host, limits, beginning):
    load(host)
    server = serve(host, "127.0.0.1:0", limits=limits)
    with Wire(server.address) as wire:
        wire.send(beginning)

        assert wire.answer().status == 408
        assert wire.closed()
    server.close()


def test_a_client_that_does_not_read_is_given_up(host):
    load(host)
    limits = Limits(body_bytes=32 << 20, write_s=0.3)
    server = serve(host, "127.0.0.1:0", limits=limits)
    options = {"parameters": {"binary_data_output": True}}
    body, headers = binary_body(np.zeros((300_000, 4), np.float32), **options)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: {len(body)}\r\n{lines}\r\n"

    with Wire(server.address) as deaf, Wire(server.address) as wire:
        # However much this machine's kernel would otherwise keep for a reader that may come back.
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        wait_until(lambda: b"_http_connections 2" in wire.request("GET", "/metrics").body)
        deaf.send(head.encode() + body)  # and then does not read the 5 MB of the answer
        wait_until(lambda: b"_http_connections 1" in wire.request("GET", "/metrics").body)
    server.close()


def test_an_idle_connection_gives_way_when_all_are_taken(host):
    load(host)
    server = serve(host, "127.0.0.1:0", limits=replace(LIMITS, evictable_s=0.0))
    taken = [Wire(server.address) for _ in range(LIMITS.connections)]
    for wire in taken:
        assert wire.request("GET", "/v2").status == 200

    wait_until(lambda: _is_served(server))  # once one is known to be idle

    ended, _, _ = select.select([wire.sock for wire in taken], [], [], 120)
    assert all(wire.closed() for wire in taken if wire.sock in ended)
    for wire in taken:
        if wire.sock not in ended:
            assert wire.request("GET", "/v2").status == 200
        wire.sock.close()
    server.close()


def test_a_connection_that_was_used_a_moment_ago_does_not_give_way(host):
    load(host)
    server = serve(host, "127.0.0.1:0", limits=replace(LIMITS, evictable_s=3600.0))
    taken = [Wire(server.address) for _ in range(LIMITS.connections)]
    for wire in taken:
        assert wire.request("GET", "/v2").status == 200

    with Wire(server.address) as turned_away:
        assert turned_away.answer().status == 503

    for wire in taken:
        assert wire.request("GET", "/v2").status == 200
        wire.sock.close()
    server.close()


def _is_served(server) -> bool:
    with Wire(server.address) as wire:
        try:
            return wire.request("GET", "/v2").status == 200
        except (EOFError, OSError):
            return False


def test_bodies_of_all_connections_together_are_bounded(server):
    head = f"POST {INFER} HTTP/1.1\r\n{HOST}Content-Length: 190000\r\n\r\n".encode()
    wires = [Wire(server.address) for _ in range(3)]
    for wire in wires:
        wire.send(head)

    answered, _, _ = select.select([wire.sock for wire in wires], [], [], 120)

    (refused,) = (wire for wire in wires if wire.sock in answered)  # two wait for their bodies
    assert refused.answer().status == 503
    for wire in wires:
        wire.sock.close()
    wait_until(lambda: answers_as_ever(server))


def test_a_web_page_cannot_reach_it_under_a_name_of_its_own(server):
    for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]:80"):
        with Wire(server.address) as wire:
            wire.send(f"GET /v1/status HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            assert wire.answer().status == 403


def test_swaps_under_load_over_http_fail_no_call_and_mix_no_versions(host):
    load(host, "1.0.0")
    server = serve(host, "127.0.0.1:0")
    done = threading.Event()

    def call(seed: int) -> int:
        x, answered = rows(2, seed=seed), 0
        with Wire(server.address) as wire:
            while not done.is_set():
                answer = wire.request("POST", INFER, infer_body(x))
                assert answer.status == 200, answer.body
                offset = int(answer.json["model_version"].split(".")[1])
                assert answer.json["outputs"][0]["data"] == (2 * (x - offset)).ravel().tolist()
                answered += 1
        return answered

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call, seed) for seed in range(2)]
        try:
            for number in range(1, 101):
                previous = host.active("double")
                load(host, f"1.{number}.0", offset=number, runtime=RUNTIMES[number % 2])
                assert host.retire(previous, wait_s=120)
        finally:
            done.set()
    assert all(result.result() > 0 for result in calls)
    server.close()


def test_a_unix_socket_is_private_and_goes_away(host, tmp_path):
    load(host)
    path = tmp_path / "api.sock"
    server = serve(host, f"unix:{path}")
    assert server.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660

    with Wire(server.address) as wire:
        assert wire.request("POST", INFER, infer_body(rows())).status == 200
    with pytest.raises(AddressError, match="another program listens"):
        serve(host, f"unix:{path}")
    server.close()

    assert not path.exists()


def test_a_socket_that_a_killed_agent_left_is_taken_over(host, tmp_path):
    path = tmp_path / "api.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    server = serve(host, f"unix:{path}")
    with Wire(server.address) as wire:
        assert wire.request("GET", "/v2/health/live").status == 200
    server.close()


def test_a_file_that_is_no_socket_is_left_alone(host, tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")

    with pytest.raises(AddressError, match="not a socket"):
        serve(host, f"unix:{path}")
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0", ":0", "9000", "unix:", "a:b",
                "127.0.0.1:99999", "unix:" + "x" * 200]
)  # fmt: skip
def test_an_address_that_is_not_local_or_malformed_is_refused(host, address):
    with pytest.raises(AddressError):
        serve(host, address)


def test_remote_clients_are_served_when_that_was_said(host):
    server = serve(host, "0.0.0.0:0", allow_remote=True)
    port = server.address.rpartition(":")[2]
    with Wire(f"127.0.0.1:{port}") as wire:
        wire.send(b"GET /v2/health/live HTTP/1.1\r\nHost: device-7.example\r\n\r\n")
        assert wire.answer().status == 200
    server.close()


def test_closing_lets_the_call_in_flight_end(host):
    load(host, runtime="litert")
    server = serve(host, "127.0.0.1:0")
    big = np.zeros((3000, 4), np.float32)
    body, headers = binary_body(big)
    with Wire(server.address) as wire, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(wire.request, "POST", INFER, body, headers)
        wait_until(lambda: host.active("double").in_flight > 0 or answer.done())
        server.close(drain_s=120)
        assert answer.result().status == 200
        assert wire.closed()
    with pytest.raises(OSError):  # noqa: PT011  whatever the system says about a closed port
        Wire(server.address)
