"""Laws of the protocol's parts, and bytes that nobody meant: a clean refusal or a clean answer."""

import json
import socket

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from doubles import bundle
from hypothesis import given
from hypothesis import strategies as st

from edgec_agent import datatypes, oip
from edgec_agent.errors import InferenceError, InvalidInputError, RequestError
from edgec_agent.http1 import Disconnected, Stream
from edgec_agent.http_head import Head, HttpError, parse_head
from edgec_agent.limits import Budget, Lease, Limits, decompress

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64")  # fmt: skip
MANIFEST = bundle().manifest
LIMITS = Limits(header_bytes=2000, body_bytes=5000, header_s=0.2, body_s=0.2, idle_s=0.2)

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
FINITE = {"allow_nan": False, "allow_infinity": False}
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, shapes, elements=FINITE if dtype[0] == "f" else None)
)


def outcome(call, refusal):
    """Return (what `call` returned, None) or (None, the `refusal` that it raised)."""
    try:
        return call(), None
    except refusal as error:
        return None, error


@given(arrays)
def test_an_array_survives_both_encodings(array):
    datatype = datatypes.datatype_of(array.dtype.name)

    flat = json.loads(json.dumps(datatypes.to_json("y", array)))
    by_json = datatypes.from_json("x", datatype, array.shape, flat)
    nested = datatypes.from_json("x", datatype, array.shape, json.loads(json.dumps(array.tolist())))
    raw = memoryview(b"?" + datatypes.to_bytes(array))[1:]  # not aligned
    by_bytes = datatypes.from_bytes("x", datatype, array.shape, raw)

    for found in (by_json, nested, by_bytes):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert by_bytes.flags.aligned


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_survive_the_binary_encoding(elements):
    array = np.empty(len(elements), object)
    array[:] = elements

    raw = memoryview(datatypes.to_bytes(array))

    assert datatypes.from_bytes("x", "BYTES", (len(elements),), raw).tolist() == elements


@given(st.sampled_from(datatypes.DATATYPES), shapes, st.binary(max_size=64))
def test_any_bytes_are_a_tensor_or_refused_by_name(datatype, shape, raw):
    found, refusal = outcome(
        lambda: datatypes.from_bytes("x", datatype, shape, memoryview(raw)), InvalidInputError
    )
    assert refusal.name == "x" if refusal else found.shape == shape


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(st.sampled_from(datatypes.DATATYPES), shapes, json_values)
def test_any_json_is_a_tensor_or_refused_by_name(datatype, shape, data):
    found, refusal = outcome(
        lambda: datatypes.from_json("x", datatype, shape, data), InvalidInputError
    )
    assert refusal.name == "x" if refusal else found.shape == shape


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("UINT64", [2**64 - 1, 0], [2**64 - 1, 0]),
        ("INT64", [-(2**63), 2**53 + 1], [-(2**63), 2**53 + 1]),
        ("FP32", [2**70, 1.5], [2.0**70, 1.5]),  # as JavaScript writes large floats
        ("FP64", [1, None], [1.0, np.nan]),
    ],
)
def test_large_numbers_and_nulls_arrive_exactly(datatype, data, expected):
    found = datatypes.from_json("x", datatype, (2,), data)
    np.testing.assert_array_equal(found, np.array(expected, found.dtype))


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("UINT64", [2**64]), ("INT64", [2**63]), ("UINT64", [-1]), ("INT64", [1.5]), ("INT64", [True]),
     ("INT8", [128]), ("UINT8", [-1]), ("FP16", [65520]), ("FP64", [10**400]), ("BOOL", [1]),
     ("INT64", [None])],
)  # fmt: skip
def test_a_number_that_the_type_cannot_hold_is_refused(datatype, data):
    with pytest.raises(InvalidInputError, match="'x': expected"):
        datatypes.from_json("x", datatype, (1,), data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_json_never_carries_what_is_no_json_number(value):
    with pytest.raises(InferenceError, match="binary_data"):
        datatypes.to_json("y", np.array([value]))


GOOD = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
keys = st.sampled_from(["name", "shape", "datatype", "data", "parameters"])


@given(st.dictionaries(keys, json_values), st.none() | json_values, st.none() | st.integers(0, 300))
def test_a_request_with_any_fields_is_decoded_or_refused(changes, outputs, header_length):
    request = {"inputs": [{**GOOD, **changes}]}
    if outputs is not None:
        request["outputs"] = outputs
    try:
        found = oip.decode(json.dumps(request).encode(), header_length, MANIFEST)
    except RequestError:
        return
    assert found.inputs["x"].shape[1:] == (4,)
    assert {wanted.name for wanted in found.outputs} <= {"y"}


@given(st.binary(max_size=300), st.none() | st.integers(0, 300))
def test_any_body_is_decoded_or_refused(body, header_length):
    found, refusal = outcome(lambda: oip.decode(body, header_length, MANIFEST), RequestError)
    assert str(refusal) if refusal else found.inputs["x"].shape[1:] == (4,)


@given(st.text(st.characters(max_codepoint=255), max_size=300))
def test_any_head_is_parsed_or_refused(text):
    head, refusal = outcome(lambda: parse_head(text), HttpError)
    assert 400 <= refusal.status < 600 if refusal else isinstance(head, Head)


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def read_all(sent: bytes, pieces: list[int]) -> list[tuple[str, bytes]]:
    """Return the requests that a connection carries when `sent` comes in `pieces`."""
    near, far = socket.socketpair()
    found = []
    with near, far:
        stream, budget = Stream(near, LIMITS), Budget(10_000)
        start = 0
        for size in [*pieces, len(sent)]:
            far.sendall(sent[start : start + size])
            start += size
        far.shutdown(socket.SHUT_WR)
        try:
            while True:
                stream.wait_for_request()
                with Lease(budget) as lease:
                    head = stream.read_head()
                    found.append((head.method, bytes(stream.read_body(head, lease))))
        except (HttpError, Disconnected):
            return found


@given(st.lists(st.binary(max_size=40), max_size=4), st.lists(st.integers(1, 60), max_size=12))
def test_where_a_message_ends_does_not_depend_on_how_it_comes(bodies, pieces):
    sent = b""
    for body in bodies:
        sent += b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        sent += (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunk
        )

    expected = [(method, body) for body in bodies for method in ("PUT", "POST")]
    assert read_all(sent, pieces) == expected


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_on_a_connection_end_it_cleanly(noise, after_a_head):
    start = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" if after_a_head else b""
    )
    read_all(start + noise, [])


def test_a_budget_comes_back_in_full():
    budget = Budget(100)
    with Lease(budget) as lease:
        lease.grow(60)
        with Lease(budget) as other:
            other.grow(30)
            with pytest.raises(HttpError, match="in flight"):
                other.grow(30)
        lease.grow(40)
    with Lease(budget) as lease:
        lease.grow(100)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_unpack_or_are_refused(body, coding):
    with Lease(Budget(10_000)) as lease:
        found, refusal = outcome(lambda: decompress(body, coding, LIMITS, lease), HttpError)
    assert refusal.status in (400, 413) if refusal else len(found) <= LIMITS.body_bytes
