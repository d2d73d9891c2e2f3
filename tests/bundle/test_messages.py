"""The wire: what is sent comes back, what is hostile is refused, what is unknown is tolerated."""

import json
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec_bundle.errors import MessageError
from edgec_bundle.messages import (
    ALL_UP,
    DOWN_KINDS,
    KINDS,
    MAX_BITMAP_BYTES,
    MAX_DEPTH,
    MAX_EVIDENCE_BYTES,
    PHASES,
    SOURCE_ROLES,
    UP_KINDS,
    AgentInfo,
    BlobRef,
    BlobTopic,
    Counts,
    Deployed,
    Desired,
    DeviceTopic,
    Event,
    Hello,
    Host,
    ModelState,
    ModelTelemetry,
    PatchSource,
    Percentiles,
    Reply,
    ReplyError,
    Request,
    Source,
    State,
    Telemetry,
    Topics,
    Window,
    bitmap_of,
    blob_filter,
    blob_topic,
    example,
    new_id,
    parse_rfc3339,
    parse_topic,
    rfc3339,
    schema,
)

every_kind = pytest.mark.parametrize("kind", KINDS)

# strategies: values as wide as the schemas allow

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)
counts = st.integers(0, 2**53 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
milliseconds = st.floats(0, 1e9)
times = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1)).map(
    lambda moment: rfc3339(moment.replace(tzinfo=UTC))
)
boots = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=64)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
head = {"at": times, "id": st.uuids().map(lambda one: one.hex)}


def few(keys, values):
    return st.dictionaries(keys, values, max_size=3)


def tuples(item, **more):
    return st.lists(item, max_size=3, **more).map(tuple)


def histograms():
    return st.lists(counts, min_size=1, max_size=5).flatmap(
        lambda found: st.builds(
            Counts,
            edges=st.lists(numbers, min_size=len(found) + 1, max_size=len(found) + 1).map(tuple),
            counts=st.just(tuple(found)),
        )
    )


deployed = st.builds(
    Deployed, manifest=digests, version=text, release=counts, files=few(names, digests)
)
messages = {
    "hello": st.builds(
        Hello,
        **head,
        boot_id=boots,
        agent=st.builds(AgentInfo, version=text, python=text, arch=text, os=text),
        profiles=tuples(names),
        runtimes=few(text, text),
        features=tuples(text),
        delta_formats=tuples(text),
        memory_bytes=st.none() | counts,
        tags=few(text, text),
    ),
    "state": st.builds(
        State,
        **head,
        boot_id=boots,
        online=st.booleans(),
        models=few(
            names,
            st.builds(
                ModelState,
                active=st.none() | deployed,
                previous=st.none() | deployed,
                phase=st.sampled_from(PHASES),
                candidate=st.none() | digests,
                reason=st.none() | text,
            ),
        ),
    ),
    "event": st.builds(
        Event,
        **head,
        boot_id=boots,
        seq=counts,
        model=names,
        manifest=digests,
        assignment=counts,
        phase=st.sampled_from(PHASES),
        previous_phase=words,
        rollout=st.none() | text,
        reason=st.none() | text,
        evidence=few(text, json_values),
    ),
    "telemetry": st.builds(
        Telemetry,
        **head,
        boot_id=boots,
        window=st.builds(Window, start=times, end=times),
        models=few(
            names,
            st.builds(
                ModelTelemetry,
                manifest=digests,
                requests=counts,
                failed=counts,
                latency_ms=st.none()
                | st.builds(Percentiles, p50=milliseconds, p95=milliseconds, p99=milliseconds),
                histograms=few(text, histograms()),
            ),
        ),
        host=st.builds(
            Host,
            memory_bytes=st.none() | counts,
            cpu=st.none() | st.floats(0, 1),
            temperature_c=st.none() | numbers,
        ),
    ),
    "request": st.builds(
        Request,
        **head,
        digest=digests,
        first=st.integers(0, 2**30),
        bitmap=st.binary(min_size=1, max_size=100),
        block_bytes=st.integers(1024, 2**20),
    ),
    "desired": st.builds(
        Desired,
        **head,
        director=st.binary(min_size=1, max_size=200),
        metadata=st.builds(BlobRef, sha256=digests, bytes=counts),
        sources=tuples(
            st.builds(
                Source,
                sha256=digests,
                bytes=counts,
                model=names,
                role=st.sampled_from(SOURCE_ROLES),
                patches=tuples(
                    st.builds(PatchSource, base=digests, sha256=digests, bytes=counts, format=text)
                ),
            )
        ),
        block_bytes=st.integers(1024, 2**20),
        http=st.none() | text,
        rollouts=few(names, text),
    ),
    "reply": st.builds(
        Reply,
        **head,
        re=st.uuids().map(lambda one: one.hex),
        ok=st.booleans(),
        error=st.none() | st.builds(ReplyError, code=words, message=text),
    ),
}


def changed(kind, **fields):
    """Return the golden example with fields replaced, as bytes."""
    return json.dumps({**json.loads(example(kind)), **fields}).encode()


def without(kind, field):
    raw = json.loads(example(kind))
    del raw[field]
    return json.dumps(raw).encode()


class TestLaws:
    @every_kind
    @settings(max_examples=40)
    @given(data=st.data())
    def test_what_is_sent_comes_back_and_fits_the_schema(self, kind, data):
        message = data.draw(messages[kind])

        payload = message.to_bytes()

        assert type(message).from_bytes(payload) == message
        jsonschema.validate(json.loads(payload), schema(kind))

    @every_kind
    @settings(max_examples=100)
    @given(data=st.data())
    def test_changed_bytes_are_refused_or_are_another_message(self, kind, data):
        payload = bytearray(example(kind))
        for _ in range(data.draw(st.integers(1, 3))):
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
        try:
            message = KINDS[kind].from_bytes(bytes(payload))
        except MessageError:
            return
        assert KINDS[kind].from_bytes(message.to_bytes()) == message

    @every_kind
    @settings(max_examples=60)
    @given(value=json_values, data=st.data())
    def test_any_json_in_any_field_is_refused_or_right(self, kind, value, data):
        raw = json.loads(example(kind))
        path = data.draw(st.sampled_from(list(paths(raw))))
        place(raw, path, value)
        try:
            message = KINDS[kind].from_bytes(json.dumps(raw).encode())
        except MessageError:
            return
        assert KINDS[kind].from_bytes(message.to_bytes()) == message

    @given(st.sets(st.integers(0, 2000), min_size=1), st.integers(0, 10**6))
    def test_bitmaps_name_the_blocks_they_were_made_of(self, offsets, first):
        blocks = sorted(first + offset for offset in offsets)
        request = replace(
            Request.from_bytes(example("request")), first=first, bitmap=bitmap_of(blocks, first)
        )

        assert list(request.blocks()) == blocks


def paths(raw, here=()):
    """Yield the way to every value in `raw`."""
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
        yield (*here, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*here, key))


def place(raw, path, value):
    for key in path[:-1]:
        raw = raw[key]
    raw[path[-1]] = value


class TestGoldenExamples:
    @every_kind
    def test_fit_their_schema_by_an_independent_validator(self, kind):
        jsonschema.Draft7Validator.check_schema(schema(kind))
        jsonschema.validate(json.loads(example(kind)), schema(kind))

    @every_kind
    def test_use_every_field_and_come_back_unchanged(self, kind):
        raw = json.loads(example(kind))

        assert json.loads(KINDS[kind].from_bytes(example(kind)).to_bytes()) == raw
        assert raw.keys() == schema(kind)["properties"].keys()

    def test_request_names_the_blocks_of_the_published_vector(self):
        """Blocks 20, 21, 24 and 43 as 0x130080 from 20 on, as AWS IoT streams write it."""
        request = Request.from_bytes(example("request"))

        assert (request.first, request.bitmap) == (20, bytes.fromhex("130080"))
        assert request.blocks() == (20, 21, 24, 43)
        assert bitmap_of((20, 21, 24, 43), first=20) == request.bitmap


class TestOlderAndNewerPeers:
    @every_kind
    def test_fields_of_a_newer_peer_are_left_out(self, kind):
        known = KINDS[kind].from_bytes(example(kind))
        raw = json.loads(example(kind))
        for path in list(paths(raw)):
            found = raw
            for key in path:
                found = found[key]
            if isinstance(found, dict) and not is_map(kind, path):
                found["from_the_future"] = {"x": [1]}
        raw["from_the_future"] = None

        assert KINDS[kind].from_bytes(json.dumps(raw).encode()) == known

    @every_kind
    def test_fields_that_an_older_peer_did_not_know_have_defaults(self, kind):
        required = {name: json.loads(example(kind))[name] for name in schema(kind)["required"]}

        assert KINDS[kind].from_bytes(json.dumps(required).encode()).at

    @every_kind
    def test_another_version_of_the_wire_is_refused(self, kind):
        for version in (0, 2, "1", None, True, 1.5):
            with pytest.raises(MessageError):
                KINDS[kind].from_bytes(changed(kind, v=version))

    def test_a_phase_of_a_newer_agent_is_understood_as_text(self):
        assert Event.from_bytes(changed("event", phase="draining")).phase == "draining"

    def test_a_role_of_a_newer_server_does_not_hide_the_rest(self):
        sources = json.loads(example("desired"))["sources"]
        sources[0]["role"] = "tokenizer"

        assert len(Desired.from_bytes(changed("desired", sources=sources)).sources) == 2


def is_map(kind, path):
    """Whether names at `path` are free: a map by model, role or tag, or evidence."""
    maps = {"models", "files", "runtimes", "tags", "rollouts", "evidence", "histograms"}
    return path[-1] in maps or "evidence" in path


HOSTILE = {
    "nothing": b"",
    "not JSON": b"{'v': 1}",
    "not an object": b"[]",
    "a number": b"1",
    "null": b"null",
    "cut short": b'{"v":1,',
    "two objects": b"{}{}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "not UTF-8": b'{"v":"\xff"}',
    "deep arrays": b"[" * 20_000,
    "deep objects": b'{"v":' * 20_000,
    "no fields": b"{}",
}
BROKEN_FIELDS = {
    "duplicate keys": lambda payload: payload.replace(b'"v": 1', b'"v": 1, "v": 1', 1),
    "NaN": lambda payload: payload.replace(b'"v": 1', b'"v": 1, "x": NaN', 1),
    "infinity": lambda payload: payload.replace(b'"v": 1', b'"v": 1, "x": -Infinity', 1),
    "a float too large": lambda payload: payload.replace(b'"v": 1', b'"v": 1, "x": 1e999', 1),
    "a huge integer": lambda payload: payload.replace(b'"v": 1', b'"v": 1, "x": ' + b"9" * 5000, 1),
    "a lone surrogate": lambda payload: payload.replace(b'"v": 1', b'"v": 1, "x": "\\ud800"', 1),
    "a NUL in a value": lambda payload: payload.replace(b'"v": 1', b'"v": 1, "x": "\\u0000"', 1),
    "a NUL in a name": lambda payload: payload.replace(b'"v": 1', b'"v": 1, "\\u0000": 1', 1),
    "too deep": lambda payload: payload.replace(
        b'"v": 1', b'"v": 1, "x": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), 1
    ),
    "too large": lambda payload: payload + b" " * 2**20,
}


class TestHostileBytes:
    @every_kind
    @pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
    def test_that_are_no_message_are_refused(self, kind, payload):
        with pytest.raises(MessageError):
            KINDS[kind].from_bytes(payload)

    @every_kind
    @pytest.mark.parametrize("damage", BROKEN_FIELDS.values(), ids=BROKEN_FIELDS)
    def test_in_an_otherwise_good_message_are_refused(self, kind, damage):
        with pytest.raises(MessageError):
            KINDS[kind].from_bytes(damage(example(kind)))

    @every_kind
    def test_of_another_kind_are_refused(self, kind):
        for other in KINDS.keys() - {kind}:
            with pytest.raises(MessageError):
                KINDS[kind].from_bytes(example(other))

    @every_kind
    def test_without_a_required_field_are_refused(self, kind):
        for field in schema(kind)["required"]:
            with pytest.raises(MessageError):
                KINDS[kind].from_bytes(without(kind, field))

    @pytest.mark.parametrize(
        ("kind", "fields"),
        [
            ("hello", {"profiles": "rpi4"}),
            ("hello", {"profiles": ["../rpi4"]}),
            ("hello", {"memory_bytes": -1}),
            ("hello", {"memory_bytes": 1e300}),
            ("hello", {"tags": {"a": 1}}),
            ("hello", {"tags": {str(number): "" for number in range(65)}}),
            ("hello", {"agent": {}}),
            ("hello", {"agent": None}),
            ("state", {"online": 1}),
            ("state", {"models": {"UPPER": {}}}),
            ("state", {"models": {"digits": {"active": {"manifest": "0"}}}}),
            ("event", {"manifest": "0" * 63 + "g"}),
            ("event", {"manifest": "A" * 64}),
            ("event", {"seq": True}),
            ("event", {"seq": 1.5}),
            ("event", {"phase": "Idle"}),
            ("event", {"phase": "x" * 33}),
            ("event", {"reason": "x" * 2001}),
            ("event", {"evidence": []}),
            ("event", {"evidence": {"x": "y" * MAX_EVIDENCE_BYTES}}),
            ("telemetry", {"window": {"start": "now", "end": "then"}}),
            ("telemetry", {"window": {"start": "2026-02-30T00:00:00Z", "end": ""}}),
            ("telemetry", {"host": {"cpu": 1.01}}),
            ("request", {"first": -1}),
            ("request", {"first": 2**31 - 1}),
            ("request", {"bitmap": "AAA"}),
            ("request", {"bitmap": "A==="}),
            ("request", {"bitmap": "****"}),
            ("request", {"bitmap": "AAAA" * 5000}),
            ("request", {"block_bytes": 0}),
            ("request", {"block_bytes": 2**31}),
            ("desired", {"director": "AAA"}),
            ("desired", {"sources": [{}]}),
            ("desired", {"metadata": {"sha256": "0" * 64, "bytes": "1"}}),
            ("desired", {"block_bytes": None}),
            ("reply", {"re": "not an id"}),
            ("reply", {"ok": "yes"}),
            ("reply", {"error": {"code": "x"}}),
            ("reply", {"id": "0" * 31}),
            ("reply", {"at": "2026-11-23T04:45:00+00:00"}),
            ("reply", {"at": "2026-13-23T04:45:00Z"}),
            ("reply", {"at": "2026-11-23T04:45:00Z\n"}),
            ("reply", {"at": "٢٠٢٦-11-23T04:45:00Z"}),
        ],
    )
    def test_in_one_field_are_refused(self, kind, fields):
        with pytest.raises(MessageError):
            KINDS[kind].from_bytes(changed(kind, **fields))

    def test_histograms_need_one_edge_more_than_counts(self):
        raw = json.loads(example("telemetry"))
        raw["models"]["digits"]["histograms"]["confidence"]["counts"].append(1)

        with pytest.raises(MessageError):
            Telemetry.from_bytes(json.dumps(raw).encode())

    def test_the_message_names_the_field_and_not_its_content(self):
        with pytest.raises(MessageError, match="manifest") as caught:
            Event.from_bytes(changed("event", manifest="secret" * 20))

        assert "secret" not in str(caught.value)


class TestSender:
    def test_does_not_send_what_receivers_refuse(self):
        good = Event.from_bytes(example("event"))
        for bad in (
            replace(good, manifest="short"),
            replace(good, at="yesterday"),
            replace(good, evidence={"x": float("nan")}),
            replace(good, evidence={"x": object()}),
            replace(good, evidence={"x": "y" * MAX_EVIDENCE_BYTES}),
            replace(good, reason="\0"),
            replace(good, seq=2**60),
        ):
            with pytest.raises(MessageError):
                bad.to_bytes()

    def test_gives_each_message_an_id_of_its_own(self):
        at = rfc3339(datetime(2026, 1, 1, tzinfo=UTC))

        assert Reply(at=at, re=new_id(), ok=True).id != Reply(at=at, re=new_id(), ok=True).id

    @pytest.mark.parametrize("blocks", [(), (1,), (2, 2 + 8 * MAX_BITMAP_BYTES)])
    def test_cannot_ask_for_blocks_outside_a_bitmap(self, blocks):
        with pytest.raises(ValueError, match="bitmap"):
            bitmap_of(blocks, first=2)

    def test_a_full_bitmap_fits_into_a_request(self):
        request = replace(Request.from_bytes(example("request")), bitmap=b"\xff" * MAX_BITMAP_BYTES)

        assert len(Request.from_bytes(request.to_bytes()).blocks()) == 8 * MAX_BITMAP_BYTES


class TestTimes:
    def test_are_utc_seconds(self):
        east = datetime(2026, 11, 23, 6, 45, 0, 999, tzinfo=timezone(timedelta(hours=2)))

        assert rfc3339(east) == "2026-11-23T04:45:00Z"
        assert parse_rfc3339("2026-11-23T04:45:00Z") == east.replace(microsecond=0)

    def test_without_a_zone_are_a_mistake(self):
        with pytest.raises(ValueError, match="time zone"):
            rfc3339(datetime(2026, 1, 1))


class TestTopics:
    def test_are_the_documented_ones(self):
        topics = Topics("default", "camera-1")

        assert topics.up("hello") == "edgec/v1/default/dev/camera-1/up/hello"
        assert topics.down("desired") == "edgec/v1/default/dev/camera-1/down/desired"
        assert topics.down_filter == "edgec/v1/default/dev/camera-1/down/#"
        assert topics.up_filter == "edgec/v1/default/dev/camera-1/up/#"
        assert ALL_UP == "edgec/v1/+/dev/+/up/#"
        assert topics.blob("0" * 64, 7) == f"edgec/v1/default/blob/{'0' * 64}/7"
        assert topics.blob_filter("0" * 64) == f"edgec/v1/default/blob/{'0' * 64}/+"

    def test_to_parts_and_back(self):
        topics = Topics("default", "camera-1")
        for kind in UP_KINDS:
            found = parse_topic(topics.up(kind))
            assert found == DeviceTopic("default", "camera-1", "up", kind)
        for kind in DOWN_KINDS:
            found = parse_topic(topics.down(kind))
            assert found == DeviceTopic("default", "camera-1", "down", kind)
        assert parse_topic(topics.blob("a" * 64, 12)) == BlobTopic("default", "a" * 64, 12)

    @pytest.mark.parametrize("name", ["", "+", "#", "a/b", "A", "-a", "a" * 64, "a\n", "é", "a b"])
    def test_cannot_be_made_of_other_names(self, name):
        for tenant, device in ((name, "camera-1"), ("default", name)):
            with pytest.raises(ValueError, match="name"):
                Topics(tenant, device)
        with pytest.raises(ValueError, match="name"):
            blob_filter(name, "0" * 64)

    @pytest.mark.parametrize(("sha256", "block"), [("0", 0), ("+", 0), ("0" * 64, -1)])
    def test_of_blocks_need_digest_and_number(self, sha256, block):
        with pytest.raises(ValueError, match="not a"):
            blob_topic("default", sha256, block)

    def test_know_no_other_kinds(self):
        topics = Topics("default", "camera-1")
        for method, kind in ((topics.up, "desired"), (topics.down, "hello"), (topics.up, "#")):
            with pytest.raises(ValueError, match="kind"):
                method(kind)

    @pytest.mark.parametrize(
        "topic",
        [
            "",
            "edgec",
            "/edgec/v1/default/dev/camera-1/up/hello",
            "edgec/v2/default/dev/camera-1/up/hello",
            "edgec/v1/default/dev/camera-1/up/desired",
            "edgec/v1/default/dev/camera-1/down/hello",
            "edgec/v1/default/dev/camera-1/sideways/hello",
            "edgec/v1/default/dev/camera-1/up/hello/",
            "edgec/v1/default/dev/+/up/hello",
            "edgec/v1//dev/camera-1/up/hello",
            "edgec/v1/default/dev/camera-1\n/up/hello",
            f"edgec/v1/default/blob/{'0' * 64}/-1",
            f"edgec/v1/default/blob/{'0' * 64}/01",
            f"edgec/v1/default/blob/{'0' * 64}/1e3",
            f"edgec/v1/default/blob/{'0' * 64}/²",
            f"edgec/v1/default/blob/{'0' * 64}/{2**31}",
            f"edgec/v1/default/blob/{'0' * 64}/" + "9" * 9999,
            f"edgec/v1/default/blob/{'0' * 63}/1",
        ],
    )
    def test_that_are_not_ours_are_refused(self, topic):
        with pytest.raises(MessageError):
            parse_topic(topic)

    @given(st.text(max_size=100))
    def test_of_any_text_are_refused_or_parsed(self, text):
        with pytest.raises(MessageError):
            parse_topic(text)


class TestReference:
    @every_kind
    def test_names_every_kind_and_field(self, kind):
        page = (Path(__file__).parents[2] / "docs/reference/wire.md").read_text()
        _, found, section = page.partition(f"\n## {kind}\n")
        section = section.partition("\n## ")[0]

        assert found
        for field in schema(kind)["properties"].keys() - {"v", "id", "at"}:
            assert f"`{field}`" in section
