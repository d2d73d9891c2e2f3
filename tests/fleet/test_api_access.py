"""Who may call what: roles, tokens, sessions, CSRF, limits, and tenants apart from each other."""

import re
import uuid

import pytest

from edgec_fleet import audit, identity
from edgec_fleet.api.app import operators_app
from edgec_fleet.api.guard import COOKIE, FAILED_LOGINS
from edgec_fleet.db.schema import ROLES, ApiToken, AuditEntry, utcnow

PASSWORD = "correct horse battery"
ON_SQLITE = pytest.mark.parametrize("template", ["sqlite"], indirect=True)  # any database will do
OPEN = {"/v1/health", "/v1/enrolment", "/v1/session"}


def log_in(client, password=PASSWORD, name="admin"):
    return client.post("/v1/session", json={"name": name, "password": password})


def rules(app):
    """Yield (method, path with something in its gaps, required role or None) of the API."""
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith("/v1/") and rule.rule != "/metrics":
            continue
        path = re.sub(r"<any\((\w+),.*?\):\w+>", r"\1", rule.rule)
        path = re.sub(r"<[^>]+>", "x", path)
        role = getattr(app.view_functions[rule.endpoint], "_required_role", None)
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
            yield method, path, role


@ON_SQLITE
def test_every_address_asks_for_a_role_or_is_meant_to_be_open(server):
    for _method, path, role in rules(operators_app(server)):
        assert role in ROLES or path in OPEN, path


@ON_SQLITE
def test_nobody_unknown_gets_past_the_door(server, operators):
    for method, path, role in rules(operators_app(server)):
        if role is not None:
            answer = operators.open(path, method=method)
            assert answer.status_code == 401, (method, path)
            assert answer.json["error"]
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@ON_SQLITE
def test_a_role_below_is_refused_and_a_role_above_is_let_in(server, operators, people):
    headers = {role: people.headers(role) for role in ROLES}

    for method, path, role in rules(operators_app(server)):
        if role is None:
            continue
        for rank, other in enumerate(ROLES):
            code = operators.open(path, method=method, headers=headers[other]).status_code
            assert (code == 403) == (rank < ROLES.index(role)), (method, path, other, code)


BAD_TOKENS = {
    "empty": "Bearer ",
    "no scheme": "edgect_x",
    "another scheme": "Basic YWRtaW46YWRtaW4=",
    "unknown": "Bearer edgect_" + "x" * 43,
    "with a NUL": "Bearer edgect_\\x00",
    "not ASCII": "Bearer edgect_ä".encode().decode("latin-1"),
    "huge": "Bearer " + "x" * 6000,
}


@ON_SQLITE
@pytest.mark.parametrize("value", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
def test_a_bad_token_is_nobody(operators, value):
    answer = operators.get("/v1/releases", headers={"Authorization": value})

    assert answer.status_code == 401


def test_a_bad_token_is_not_made_good_by_a_cookie(operators):
    log_in(operators)

    answer = operators.get("/v1/releases", headers={"Authorization": "Bearer nonsense"})

    assert answer.status_code == 401


def test_tokens_end_when_revoked_expired_or_their_user_is_disabled(server, operators):
    def make(**changes):
        name = f"u{uuid.uuid4().hex[:6]}"
        with server.db.write() as session:
            user, _ = identity.create_user(
                session, "default", name, "viewer", PASSWORD, audit.SYSTEM
            )
            text, row = identity.create_api_token(
                session, user, "t", None, changes.get("expires"), audit.SYSTEM
            )
            if changes.get("revoke"):
                identity.revoke_api_token(session, row, audit.SYSTEM)
            if changes.get("disable"):
                identity.disable(session, user, audit.SYSTEM)
        headers = {"Authorization": f"Bearer {text}"}
        return operators.get("/v1/releases", headers=headers).status_code

    assert make() == 200
    assert make(revoke=True) == 401
    assert make(disable=True) == 401
    assert make(expires=utcnow()) == 401


def test_a_token_sinks_with_its_users_role(server, operators):
    with server.db.write() as session:
        user, _ = identity.create_user(session, "default", "u", "admin", PASSWORD, audit.SYSTEM)
        text, _ = identity.create_api_token(session, user, "t", None, None, audit.SYSTEM)
        identity.set_role(session, user, "viewer", audit.SYSTEM)

    headers = {"Authorization": f"Bearer {text}"}

    assert operators.get("/v1/audit", headers=headers).status_code == 403
    assert operators.get("/v1/devices", headers=headers).status_code == 200


def test_the_last_use_of_a_token_is_noted(server, operators, people):
    operators.get("/v1/devices", headers=people.headers("viewer"))

    with server.db.read() as session:
        used = [row.last_used_at for row in session.query(ApiToken) if row.role == "viewer"]
    assert used[0] is not None


def test_secrets_are_nowhere_in_the_database(server, operators, people):
    headers = people.headers("admin")
    made = operators.post("/v1/tokens", json={"name": "t"}, headers=headers).json["token"]
    log_in(operators)
    cookie = operators.get_cookie(COOKIE).value
    enrolment = operators.post("/v1/enrolment-tokens", json={}, headers=headers).json["token"]

    with server.db.engine.connect() as connection:
        from sqlalchemy import MetaData

        metadata = MetaData()
        metadata.reflect(connection)
        everything = "".join(
            repr(row)
            for table in metadata.sorted_tables
            for row in connection.execute(table.select())
        )

    from edgec_bundle.trust.tokens import EnrolmentToken

    for secret in (made, cookie, PASSWORD, EnrolmentToken.parse(enrolment).secret):
        assert secret not in everything


class TestSession:
    def test_login_gives_a_strict_cookie_and_a_csrf_secret(self, operators):
        answer = log_in(operators)

        assert answer.status_code == 200
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        me = operators.get("/v1/session").json
        assert (me["name"], me["role"], me["csrf"]) == ("admin", "admin", answer.json["csrf"])

    def test_over_tls_the_cookie_is_secure(self, operators):
        answer = operators.post(
            "/v1/session",
            json={"name": "admin", "password": PASSWORD},
            base_url="https://fleet.example.org",
        )

        assert "Secure" in answer.headers["Set-Cookie"]

    @ON_SQLITE
    @pytest.mark.parametrize(
        ("name", "password"),
        [
            ("admin", "wrong password"),
            ("nobody", PASSWORD),
            ("admin", ""),
            ("", ""),
            ("admin' OR 1=1 --", PASSWORD),
            ("admin", PASSWORD + "x" * 2000),
        ],
    )
    def test_wrong_names_and_passwords_get_one_and_the_same_answer(self, operators, name, password):
        answer = log_in(operators, password, name)

        assert answer.status_code == 401
        assert answer.json["error"] == "wrong name or password"
        assert "Set-Cookie" not in answer.headers

    @ON_SQLITE
    @pytest.mark.parametrize(
        "body", [{}, {"name": "admin"}, {"name": 1, "password": 2}, [], None, "x", {"name": None}]
    )
    def test_a_malformed_login_is_refused(self, operators, body):
        assert operators.post("/v1/session", json=body).status_code == 422

    def test_after_many_failures_even_the_right_password_waits(self, operators):
        codes = {log_in(operators, "wrong").status_code for _ in range(2 * FAILED_LOGINS + 2)}

        answer = log_in(operators)

        assert codes == {401, 429}
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) > 0

    def test_a_failed_login_is_in_the_trail(self, server, operators):
        log_in(operators, "wrong")

        with server.db.read() as session:
            actions = [entry.action for entry in session.query(AuditEntry)]
        assert "user.login_failed" in actions

    def test_an_unsafe_request_needs_the_csrf_secret(self, operators):
        csrf = log_in(operators).json["csrf"]

        def post(headers):
            return operators.post("/v1/enrolment-tokens", json={}, headers=headers).status_code

        assert post({}) == 403
        assert post({"X-CSRF-Token": "wrong"}) == 403
        assert post({"X-CSRF-Token": "ä".encode().decode("latin-1")}) == 403
        assert post({"X-CSRF-Token": csrf}) == 201

    def test_the_csrf_secret_of_another_session_is_worthless(self, server):
        first, second = (operators_app(server).test_client() for _ in range(2))
        foreign = log_in(first).json["csrf"]
        log_in(second)

        answer = second.post("/v1/enrolment-tokens", json={}, headers={"X-CSRF-Token": foreign})

        assert answer.status_code == 403

    def test_logout_ends_it_even_for_a_copied_cookie(self, server, operators):
        csrf = log_in(operators).json["csrf"]
        copied = operators.get_cookie(COOKIE).value

        assert operators.delete("/v1/session", headers={"X-CSRF-Token": csrf}).status_code == 204

        thief = operators_app(server).test_client()
        thief.set_cookie(COOKIE, copied)
        assert thief.get("/v1/session").status_code == 401

    def test_a_new_password_ends_every_session(self, server, operators):
        log_in(operators)

        with server.db.write() as session:
            user = identity.get_user(session, "default", "admin")
            identity.set_password(session, user, "another password", audit.SYSTEM)

        assert operators.get("/v1/session").status_code == 401


class TestUsers:
    @pytest.fixture
    def admin(self, people):
        return people.headers("admin")

    def test_a_user_is_made_with_a_password_shown_once(self, operators, admin):
        made = operators.post("/v1/users", json={"name": "ada", "role": "viewer"}, headers=admin)

        assert made.status_code == 201
        assert log_in(operators, made.json["password"], "ada").status_code == 200
        listed = operators.get("/v1/users", headers=admin).json
        assert all("password" not in user for user in listed)

    @pytest.mark.parametrize(
        "body",
        [
            {"name": "Ada", "role": "viewer"},
            {"name": "a b", "role": "viewer"},
            {"name": "ada", "role": "root"},
            {"name": "ada"},
            {"name": "ada", "role": "viewer", "password": "short"},
            {"name": "ada", "role": "viewer", "tenant": "other"},
        ],
    )
    def test_a_bad_user_is_refused(self, operators, admin, body):
        assert operators.post("/v1/users", json=body, headers=admin).status_code == 422

    def test_a_name_is_taken_once(self, operators, admin):
        body = {"name": "ada", "role": "viewer"}
        codes = [
            operators.post("/v1/users", json=body, headers=admin).status_code for _ in range(2)
        ]

        assert codes == [201, 409]

    def test_a_disabled_user_is_out_and_comes_back(self, operators, admin):
        body = {"name": "ada", "role": "viewer", "password": PASSWORD}
        operators.post("/v1/users", json=body, headers=admin)

        for disabled, code in ((True, 401), (False, 200)):
            operators.patch("/v1/users/ada", json={"disabled": disabled}, headers=admin)
            assert log_in(operators, PASSWORD, "ada").status_code == code

    def test_nobody_demotes_or_disables_themselves(self, operators):
        csrf = {"X-CSRF-Token": log_in(operators).json["csrf"]}

        for change in ({"role": "viewer"}, {"disabled": True}):
            answer = operators.patch("/v1/users/admin", json=change, headers=csrf)
            assert answer.status_code == 422

    def test_a_token_is_never_above_the_caller(self, operators, people):
        viewer = people.headers("viewer")

        up = operators.post("/v1/tokens", json={"name": "x", "role": "admin"}, headers=viewer)
        same = operators.post("/v1/tokens", json={"name": "x"}, headers=viewer)

        assert (up.status_code, same.status_code) == (422, 201)

    def test_a_capped_token_cannot_make_an_uncapped_one(self, operators, people):
        admin = people.headers("admin")
        capped = operators.post(
            "/v1/tokens", json={"name": "x", "role": "viewer"}, headers=admin
        ).json["token"]

        again = operators.post(
            "/v1/tokens", json={"name": "y"}, headers={"Authorization": f"Bearer {capped}"}
        )

        assert again.json["role"] == "viewer"

    def test_only_ones_own_token_or_as_admin_can_be_revoked(self, server, operators, people):
        mine, other = people.headers("viewer"), people.new("viewer")
        made = operators.post("/v1/tokens", json={"name": "x"}, headers=mine).json

        assert operators.delete(f"/v1/tokens/{made['id']}", headers=other).status_code == 404
        assert operators.delete(f"/v1/tokens/{made['id']}", headers=mine).status_code == 204
        with server.db.read() as session:
            assert session.get_one(ApiToken, made["id"]).revoked_at is not None


def test_other_tenants_things_do_not_exist(operators, people, bundles, new_secret, new_device):
    ours, theirs = people.headers("admin"), people.new("admin", people.other_tenant())
    new_device().enrol(new_secret(), device="cam-1")
    with bundles.make().open("rb") as file:
        operators.post("/v1/releases", data={"bundle": (file, "a.edgeb")}, headers=ours)
    release = operators.get("/v1/releases/digits/1.0.0", headers=ours).json
    digest = release["variants"][0]["manifest_sha256"]
    token = operators.post("/v1/enrolment-tokens", json={}, headers=ours).json["id"]

    for method, path, body in (
        ("GET", "/v1/releases/digits/1.0.0", None),
        ("POST", "/v1/releases/digits/1.0.0/withdraw", {"reason": "x"}),
        ("POST", "/v1/releases/digits/1.0.0/sign", None),
        ("GET", "/v1/devices/cam-1", None),
        ("POST", "/v1/devices/cam-1/revoke", {}),
        ("PUT", "/v1/devices/cam-1/tags", {"tags": {}}),
        ("GET", f"/v1/blobs/{digest}", None),
        ("DELETE", f"/v1/enrolment-tokens/{token}", None),
        ("POST", "/v1/rollouts", {"model": "digits", "version": "1.0.0", "strategy": "all"}),
    ):
        assert operators.open(path, method=method, json=body, headers=theirs).status_code == 404, (
            path
        )
    assert operators.get("/v1/releases", headers=theirs).json == {"releases": []}
    assert operators.get("/v1/devices", headers=theirs).json["total"] == 0
    assert operators.get("/v1/enrolment-tokens", headers=theirs).json == []
    seen = operators.get("/v1/audit", headers=theirs).json["entries"]
    assert all("cam-1" not in str(entry) for entry in seen)
