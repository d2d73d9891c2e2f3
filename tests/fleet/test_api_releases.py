"""The API of releases, devices, rollouts and blobs: what it gives, and what it refuses."""

import io
import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edgec_fleet.api.app import operators_app
from edgec_fleet.db.schema import Assignment, Device, Release, Rollout

ON_SQLITE = pytest.mark.parametrize("template", ["sqlite"], indirect=True)  # any database will do
NPZ = b"PK\x03\x04 an archive that only devices open"


@pytest.fixture
def releaser(people):
    return people.headers("releaser")


@pytest.fixture
def operator(people):
    return people.headers("operator")


def push(client, headers, *paths):
    data = {"bundle": [(io.BytesIO(path.read_bytes()), path.name) for path in paths]}
    return client.post("/v1/releases", data=data, headers=headers)


HOSTILE_FORMS = {
    "no body": {},
    "json in its place": {"json": {"bundle": "x"}},
    "text in its place": {"data": {"bundle": "text"}},
    "another field": {"data": {"file": (io.BytesIO(b"x"), "a")}},
    "an empty file": {"data": {"bundle": (io.BytesIO(b""), "a.edgeb")}},
    "a path as its name": {"data": {"bundle": (io.BytesIO(b"PK"), "../../etc/passwd")}},
    "not multipart at all": {"data": b"\0\1\2", "content_type": "multipart/form-data"},
    "a boundary without end": {
        "data": b"--x\r\nContent-Disposition: form-data; name=bundle; filename=a\r\n\r\nabc",
        "content_type": "multipart/form-data; boundary=x",
    },
    "targets that are no json": {
        "data": {"bundle": (io.BytesIO(b"PK"), "a"), "targets": (io.BytesIO(b"\0"), "t")}
    },
}


class TestPublish:
    def test_all_variants_in_one_call(self, operators, releaser, bundles):
        answer = push(operators, releaser, bundles.make(), bundles.make(profile="jetson-nano"))

        assert answer.status_code == 201, answer.json
        assert answer.json["state"] == "published"
        assert answer.json["sign_with"] is None
        assert [v["profile"] for v in answer.json["variants"]] == ["jetson-nano", "rpi4"]
        shown = operators.get("/v1/releases/digits/1.0.0", headers=releaser).json
        assert shown == {k: v for k, v in answer.json.items() if k != "sign_with"}
        assert shown["release"] == 1
        assert shown["created_at"].endswith("Z")

    def test_uploads_are_gone_afterwards(self, server, operators, releaser, bundles):
        push(operators, releaser, bundles.make())

        assert list(server.settings.uploads_dir.iterdir()) == []

    def test_a_conflict_is_409_and_a_broken_bundle_422(self, operators, releaser, bundles):
        push(operators, releaser, bundles.make())
        other = bundles.make(content=b"tampered")
        broken = bundles.make(version="2.0.0", release=9)
        broken.write_bytes(broken.read_bytes()[:-100])

        assert push(operators, releaser, other).status_code == 409
        refused = push(operators, releaser, broken)
        assert refused.status_code == 422
        assert "/uploads/" not in refused.json["error"]

    @ON_SQLITE
    @pytest.mark.parametrize("name", HOSTILE_FORMS)
    def test_a_hostile_form_is_refused_in_a_sentence(self, server, operators, releaser, name):
        form = {
            key: {
                k: (io.BytesIO(v[0].getvalue()), v[1]) if isinstance(v, tuple) else v
                for k, v in value.items()
            }
            if key == "data" and isinstance(value, dict)
            else value
            for key, value in HOSTILE_FORMS[name].items()
        }

        answer = operators.post("/v1/releases", headers=releaser, **form)

        assert answer.status_code in (400, 415, 422), answer.json
        assert answer.json["error"]
        assert "Traceback" not in answer.text
        with server.db.read() as session:
            assert session.query(Release).count() == 0

    def test_hundreds_of_parts_are_refused(self, operators, releaser):
        data = {f"f{n}": "x" for n in range(300)}

        answer = operators.post("/v1/releases", data=data, headers=releaser)

        assert answer.status_code in (413, 422)

    def test_an_upload_beyond_the_limit_is_refused(self, settings, operators, server, releaser):
        from dataclasses import replace

        from edgec_fleet.server import Server

        small = Server(replace(server.settings, max_upload_bytes=10_000), server.db)
        client = operators_app(small).test_client()

        answer = client.post(
            "/v1/releases",
            data={"bundle": (io.BytesIO(b"x" * 20_000), "a.edgeb")},
            headers=releaser,
        )

        assert answer.status_code == 413
        assert list(server.settings.uploads_dir.glob("*")) == []

    def test_json_beyond_a_megabyte_is_refused(self, operators, operator):
        answer = operators.post(
            "/v1/enrolment-tokens", json={"note": "x" * 2_000_000}, headers=operator
        )

        assert answer.status_code == 413

    def test_a_withdrawal_needs_a_reason(self, operators, releaser, bundles):
        push(operators, releaser, bundles.make())
        path = "/v1/releases/digits/1.0.0/withdraw"

        assert operators.post(path, json={}, headers=releaser).status_code == 422
        answer = operators.post(path, json={"reason": "wrong"}, headers=releaser)
        assert (answer.status_code, answer.json["state"]) == (200, "withdrawn")

    def test_the_signed_documents_come_byte_for_byte(self, operators, releaser):
        for role in ("root", "targets", "acceptance", "timestamp"):
            answer = operators.get(f"/v1/trust/{role}.json", headers=releaser)
            assert answer.status_code == 200
            assert json.loads(answer.data)["signed"]["_type"] in (role, "targets")

    def test_a_replayed_targets_json_is_refused(self, operators, releaser):
        current = operators.get("/v1/trust/targets.json", headers=releaser).data

        answer = operators.put(
            "/v1/trust/targets.json",
            data={"targets": (io.BytesIO(current), "targets.json")},
            headers=releaser,
        )

        assert answer.status_code == 422
        assert answer.json["detail"] == {"kind": "RollbackError"}


class TestAcceptance:
    def test_data_and_a_minimum_make_a_set(self, operators, releaser):
        answer = operators.put(
            "/v1/acceptance/digits",
            data={"data": (io.BytesIO(NPZ), "acceptance.npz"), "minimum": "0.95"},
            headers=releaser,
        )

        assert answer.status_code == 200, answer.json
        assert answer.json["acceptance_minimum"] == 0.95
        models = operators.get("/v1/models", headers=releaser).json["models"]
        assert [m["name"] for m in models] == ["digits"]

    @ON_SQLITE
    @pytest.mark.parametrize(
        "form",
        [
            {},
            {"minimum": "0.9"},
            {"data": NPZ},
            {"data": NPZ, "minimum": "nan"},
            {"data": NPZ, "minimum": "2"},
            {"data": NPZ, "minimum": "much"},
            {"data": b"no zip", "minimum": "0.9"},
            {"acceptance": b"{}"},
            {"acceptance": b""},
            {"data": NPZ, "minimum": "0.9", "metric": "Ümlaut"},
        ],
    )
    def test_a_bad_set_is_refused(self, operators, releaser, form):
        data = {k: (io.BytesIO(v), k) if isinstance(v, bytes) else v for k, v in form.items()}

        answer = operators.put("/v1/acceptance/digits", data=data, headers=releaser)

        assert answer.status_code == 422, answer.json

    def test_it_can_be_taken_away(self, operators, releaser):
        answer = operators.delete("/v1/acceptance/digits", headers=releaser)

        assert answer.json["acceptance_sha256"] is None


class TestDevices:
    @pytest.fixture
    def fleet(self, server):
        with server.db.write() as session:
            for number in range(25):
                session.add(
                    Device(
                        id=f"cam-{number:02}",
                        tenant="default",
                        online=number % 2 == 0,
                        tags={"site": "berlin" if number < 10 else "rome"},
                    )
                )

    def ids(self, client, headers, query=""):
        page = client.get(f"/v1/devices{query}", headers=headers).json
        return [device["id"] for device in page["devices"]], page

    def test_pages_cover_every_device_once(self, operators, operator, fleet):
        seen, after = [], ""
        while after is not None:
            found, page = self.ids(operators, operator, f"?limit=10&after={after}")
            seen += found
            after = page["next"]

        assert seen == [f"cam-{n:02}" for n in range(25)]
        assert page["total"] == 25

    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ("?online=true", 13),
            ("?online=false", 12),
            ("?tag=site=berlin", 10),
            ("?tag=site=berlin&online=true", 5),
            ("?tag=site=paris", 0),
            ("?tag=none=x", 0),
            ("?q=cam-1", 10),
            ("?q=%25", 0),
            ("?q=_", 0),
            ("?after=cam-23", 1),
        ],
    )
    def test_filters(self, operators, operator, fleet, query, count):
        assert len(self.ids(operators, operator, query)[0]) == count

    @ON_SQLITE
    @pytest.mark.parametrize(
        "query",
        ["?limit=0", "?limit=501", "?limit=x", "?online=maybe", "?tag=x", "?q=%00"],
    )
    def test_a_bad_query_is_refused(self, operators, operator, query):
        assert operators.get(f"/v1/devices{query}", headers=operator).status_code == 422

    def test_tags_are_replaced_and_the_timeline_is_shown(
        self, operators, operator, new_secret, new_device
    ):
        new_device().enrol(new_secret(tags={"a": "1"}), device="cam-1")

        operators.put("/v1/devices/cam-1/tags", json={"tags": {"b": "2"}}, headers=operator)

        device = operators.get("/v1/devices/cam-1", headers=operator).json
        assert device["tags"] == {"b": "2"}
        assert [event["kind"] for event in device["events"]] == ["enrolled"]

    def test_a_revoked_device_says_why(self, operators, operator, fleet):
        path = "/v1/devices/cam-00/revoke"

        first = operators.post(path, json={"reason": "stolen"}, headers=operator)
        again = operators.post(path, json={}, headers=operator)

        assert (first.status_code, first.json["revoked_reason"]) == (200, "stolen")
        assert again.status_code == 409


class TestRollouts:
    @pytest.fixture
    def ready(self, server, operators, releaser, bundles):
        push(operators, releaser, bundles.make())
        with server.db.write() as session:
            for number in range(4):
                session.add(
                    Device(id=f"cam-{number}", tenant="default", profiles=["rpi4"], online=True)
                )

    def order(self, client, headers, **changes):
        body = {"model": "digits", "version": "1.0.0", "strategy": "canary", **changes}
        return client.post("/v1/rollouts", json=body, headers=headers)

    def test_a_rollout_is_ordered_shown_and_moved(self, operators, operator, ready):
        made = self.order(operators, operator)
        assert made.status_code == 201, made.json
        path = f"/v1/rollouts/{made.json['id']}"

        assert made.json["state"] == "running"
        assert [sum(g["counts"].values()) for g in made.json["groups"]] == [1, 3]
        assert made.json["log"][0]["why"]
        paused = operators.post(f"{path}/pause", json={"reason": "lunch"}, headers=operator)
        assert (paused.status_code, paused.json["state"]) == (200, "paused")
        assert "lunch" in paused.json["reason"]
        again = operators.post(f"{path}/pause", json={}, headers=operator)
        assert again.status_code == 409
        resumed = operators.post(f"{path}/resume", json={}, headers=operator)
        assert resumed.json["state"] == "running"
        ended = operators.post(f"{path}/abort", json={"reason": "enough"}, headers=operator)
        assert ended.json["state"] == "aborted"
        assert ended.json["counts"] == {"cancelled": 4}
        listed = operators.get("/v1/rollouts?state=aborted", headers=operator).json["rollouts"]
        assert [r["id"] for r in listed] == [made.json["id"]]

    @ON_SQLITE
    @pytest.mark.parametrize(
        "change",
        [
            {"model": None},
            {"version": 1},
            {"strategy": "yolo"},
            {"groups": []},
            {"groups": "all"},
            {"groups": [{"name": "a"}]},
            {"groups": [{"name": "a", "percent": 500}]},
            {"groups": [{"name": "a", "percent": 10, "count": 1}]},
            {"groups": [{"name": "a", "devices": ["nobody"]}]},
            {"groups": [{"name": "a", "percent": 100, "success_threshold": "all"}]},
            {"rate_per_minute": -1},
            {"extra": 1},
        ],
    )
    def test_a_bad_order_is_refused_and_changes_nothing(
        self, server, operators, operator, ready, change
    ):
        answer = self.order(operators, operator, **change)

        assert answer.status_code == 422, answer.json
        with server.db.read() as session:
            assert session.query(Rollout).count() == 0

    @ON_SQLITE
    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{", b"[1]", b"null", b'"x"', b"\xff",
            b"[" * 100_000, b'{"a":' * 5_000, b"1" * 5_000, b"NaN",
            b'{"model":"digits","version":"1.0.0","strategy":["canary"]}',
        ],
        ids=lambda body: repr(body[:20]),
    )  # fmt: skip
    def test_what_is_no_object_is_refused(self, operators, operator, ready, body):
        answer = operators.post(
            "/v1/rollouts", data=body, headers=operator, content_type="application/json"
        )

        assert answer.status_code in (400, 422)
        assert answer.json["error"]

    def test_what_is_not_there_is_404(self, operators, operator, ready):
        assert self.order(operators, operator, model="faces").status_code == 404
        assert self.order(operators, operator, version="9.9.9").status_code == 404
        assert operators.get("/v1/rollouts/x", headers=operator).status_code == 404
        assert operators.post("/v1/rollouts/x/pause", json={}, headers=operator).status_code == 404
        assert operators.post("/v1/rollouts/x/stop", json={}, headers=operator).status_code == 404


RANGES = {
    "bytes=0-0": (206, slice(0, 1)),
    "bytes=100-199": (206, slice(100, 200)),
    "bytes=5000-": (206, slice(5000, None)),
    "bytes=-10": (206, slice(-10, None)),
    "bytes=5000-999999": (206, slice(5000, None)),
    "bytes=0-1,5-6": (200, slice(None)),
    "bytes=abc": (200, slice(None)),
    "lines=0-1": (200, slice(None)),
    "bytes=9-1": (200, slice(None)),
    "bytes=999999-": (416, None),
}


class TestBlobs:
    @pytest.fixture
    def device(self, server, new_secret, new_device, operators, releaser, bundles):
        """A device assigned digits 1.0.0, the digest of its model, and the bytes."""
        key = new_device()
        key.enrol(new_secret(), device="cam-1")
        answer = push(operators, releaser, bundles.make(content=bytes(range(256)) * 20)).json
        variant = answer["variants"][0]
        target = {"path": variant["target_path"], "sha256": variant["manifest_sha256"], "bytes": 1}
        with server.db.write() as session:
            session.add(
                Assignment(device_id="cam-1", counter=1, tenant="default", targets=[target])
            )
        key.digest = next(f["sha256"] for f in variant["files"] if f["role"] == "model")
        key.data = server.store.read(key.digest)
        return key

    def get(self, device, digest=None, method="GET", **headers):
        path = f"/v1/blobs/{digest or device.digest}"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return device.call(method, path, headers=sent)

    def test_a_whole_blob(self, device):
        answer = self.get(device)

        assert (answer.status_code, answer.data) == (200, device.data)
        assert answer.headers["ETag"] == f'"{device.digest}"'
        assert answer.headers["Accept-Ranges"] == "bytes"

    @ON_SQLITE
    @pytest.mark.parametrize("asked", RANGES)
    def test_ranges(self, device, asked):
        code, part = RANGES[asked]

        answer = self.get(device, Range=asked)

        assert answer.status_code == code
        size = len(device.data)
        if part is None:
            assert answer.headers["Content-Range"] == f"bytes */{size}"
            return
        assert answer.data == device.data[part]
        assert int(answer.headers["Content-Length"]) == len(answer.data)
        if code == 206:
            start, stop, _ = part.indices(size)
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"

    @ON_SQLITE
    @given(first=st.integers(0, 6000), length=st.integers(1, 6000))
    @hypothesis_settings(
        max_examples=25,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    def test_any_range_inside_is_that_slice(self, device, first, length):
        first %= len(device.data)

        answer = self.get(device, Range=f"bytes={first}-{first + length - 1}")

        assert answer.data == device.data[first : first + length]

    def test_if_range_with_another_etag_gives_the_whole(self, device):
        same = self.get(device, Range="bytes=0-9", If_Range=f'"{device.digest}"')
        other = self.get(device, Range="bytes=0-9", If_Range='"another"')

        assert (same.status_code, other.status_code) == (206, 200)

    def test_what_it_has_is_not_sent_again(self, device):
        assert self.get(device, If_None_Match=f'"{device.digest}"').status_code == 304

    def test_head_says_the_size_without_the_bytes(self, device):
        answer = self.get(device, method="HEAD")

        assert answer.status_code == 200
        assert answer.data == b""
        assert int(answer.headers["Content-Length"]) == len(device.data)

    @ON_SQLITE
    @pytest.mark.parametrize("digest", ["a" * 64, "A" * 64, "x", "..", "a" * 63, "%2e%2e%2fkeys"])
    def test_anything_else_is_404(self, device, digest):
        assert self.get(device, digest).status_code == 404

    def test_the_stores_other_blobs_are_404_too(self, server, device):
        assert self.get(device, server.store.put(b"secret")).status_code == 404


class TestFrame:
    def test_health_needs_no_login(self, operators):
        answer = operators.get("/v1/health")

        assert (answer.status_code, answer.json["ok"]) == (200, True)

    def test_metrics_are_prometheus_text(self, operators, operator):
        text = operators.get("/metrics", headers=operator).text

        assert 'edgec_devices{online="true"} 0.0' in text
        assert "edgec_metadata_valid_seconds" in text

    def test_openapi_describes_every_address(self, server, operators):
        spec = operators.get("/openapi.json").json

        paths = {path.replace("{", "<").replace("}", ">") for path in spec["paths"]}
        for rule in operators_app(server).url_map.iter_rules():
            if rule.rule.startswith("/v1/"):
                plain = __import__("re").sub(r"<(?:[^:>]*:)?(\w+)>", r"<\1>", rule.rule)
                assert plain in paths, rule.rule
        post = spec["paths"]["/v1/releases"]["post"]
        assert post["security"] == [{"token": []}, {"session": []}]

    def test_docs_load_nothing_from_elsewhere(self, operators):
        page = operators.get("/docs").text

        assert "/v1/rollouts" in page
        assert "<script" not in page
        assert "http://" not in page
        assert "https://" not in page

    def test_every_answer_carries_security_headers(self, operators):
        for path in ("/v1/health", "/nowhere", "/docs"):
            headers = operators.get(path).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]

    def test_what_goes_wrong_inside_is_a_sentence(self, server, operators, operator):
        server.db.engine.dispose()
        (server.settings.keys_dir / "ca.crt").unlink()

        answer = operators.get("/v1/enrolment")

        assert answer.status_code == 500
        assert answer.json["error"]
        assert "Traceback" not in answer.text

    @ON_SQLITE
    @pytest.mark.parametrize("method", ["DELETE", "PUT", "TRACE", "PATCH"])
    def test_other_methods_are_405(self, operators, method):
        answer = operators.open("/v1/health", method=method)

        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]

    def test_the_audit_trail_is_listed_newest_first(self, operators, people):
        admin = people.headers("admin")

        entries = operators.get("/v1/audit?limit=2", headers=admin).json["entries"]
        older = operators.get(f"/v1/audit?before={entries[-1]['seq']}", headers=admin).json

        assert [e["seq"] for e in entries] == sorted((e["seq"] for e in entries), reverse=True)
        assert older["entries"][0]["seq"] == entries[-1]["seq"] - 1
