"""The console through its pages: logged in, on both databases, with real releases and devices."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from edgec_fleet import audit
from edgec_fleet.console import charts, words
from edgec_fleet.db.schema import Device, Rollout, utcnow
from edgec_fleet.registry.publish import publish, take
from edgec_fleet.rollout.create import create
from edgec_fleet.server import Server

PASSWORD = "correct horse battery"
PAGES = ("/", "/devices", "/models", "/rollouts", "/alerts", "/audit", "/settings", "/search?q=dev")
MODEL, VERSION = "digits", "1.0.0"


@pytest.fixture
def page(operators: FlaskClient) -> FlaskClient:
    """A browser logged in as the admin."""
    answer = log_in(operators)
    assert answer.status_code == 303
    return operators


@pytest.fixture
def rollout(server: Server, bundles) -> str:
    """A canary rollout of digits 1.0.0 to three devices; its id."""
    path: Path = bundles.make(VERSION)
    taken = take(server, [path])
    with server.db.write() as session:
        publish(server, session, "default", taken, None, audit.SYSTEM)
        for number in range(3):
            session.add(
                Device(
                    id=f"dev-{number}",
                    tenant="default",
                    profiles=["rpi4"],
                    online=number > 0,
                    last_contact_at=utcnow() - timedelta(days=2),
                )
            )
    with server.db.write() as session:
        order = {"model": MODEL, "version": VERSION}
        return create(session, "default", order, audit.SYSTEM).id


def log_in(browser: FlaskClient, password: str = PASSWORD, next_page: str = "") -> TestResponse:
    form = {"tenant": "default", "name": "admin", "password": password, "next": next_page}
    return browser.post("/login", data=form)


def post(browser: FlaskClient, url: str, **form: str) -> TestResponse:
    """Post as the page's own form does: with the CSRF secret that the page holds."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/").text)
    assert found is not None
    return browser.post(url, data={"csrf_token": found.group(1), **form})


@pytest.mark.parametrize("url", PAGES)
def test_nobody_sees_a_page_without_login(operators: FlaskClient, url: str) -> None:
    answer = operators.get(url)

    assert answer.status_code == 302
    assert answer.location.startswith("/login")


def test_a_wrong_password_is_said_on_the_form(operators: FlaskClient) -> None:
    answer = log_in(operators, "wrong")

    assert answer.status_code == 401
    assert "Wrong name or password" in answer.text
    assert operators.get("/").status_code == 302


@pytest.mark.parametrize(
    ("wanted", "led_to"),
    [
        ("/rollouts?state=paused", "/rollouts?state=paused"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_login_leads_only_to_our_own_pages(
    operators: FlaskClient, wanted: str, led_to: str
) -> None:
    assert log_in(operators, next_page=wanted).location == led_to


@pytest.mark.parametrize("url", PAGES)
def test_empty_pages_render(page: FlaskClient, url: str) -> None:
    answer = page.get(url)

    assert answer.status_code == 200, answer.text
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"


def test_empty_pages_teach_the_next_command(page: FlaskClient) -> None:
    assert "edgec-fleet token create" in page.get("/devices").text
    assert "edgec push" in page.get("/models").text


@pytest.mark.parametrize("url", PAGES)
def test_full_pages_render(page: FlaskClient, rollout: str, url: str) -> None:
    assert page.get(url).status_code == 200


def test_the_rollout_page_says_where_it_stands(page: FlaskClient, rollout: str) -> None:
    text = page.get(f"/rollouts/{rollout}").text

    assert "1. canary" in text
    assert "2. rest" in text
    assert "dev-0" in text
    assert "for 3 devices (canary: 1, rest: 2)" in text


def test_devices_are_filtered_by_the_server(page: FlaskClient, rollout: str) -> None:
    silent = page.get("/devices?state=silent").text

    assert ">dev-0<" in silent
    assert ">dev-1<" not in silent
    assert ">dev-2<" in page.get("/devices?text=ev-2").text
    assert "No device matches" in page.get("/devices?text=%25").text


@pytest.mark.parametrize("number", ["0", "-1", "9999999", "x", "1e9", "99999999999999999999"])
def test_a_nonsense_page_number_shows_a_page(page: FlaskClient, rollout: str, number: str) -> None:
    assert page.get(f"/devices?page={number}").status_code == 200


def test_pause_and_resume_from_the_page(page: FlaskClient, server: Server, rollout: str) -> None:
    paused = post(page, f"/rollouts/{rollout}/pause")
    state_paused = state_of(server, rollout)
    resumed = post(page, f"/rollouts/{rollout}/resume")

    assert (paused.status_code, resumed.status_code) == (303, 303)
    assert (state_paused, state_of(server, rollout)) == ("paused", "running")
    assert "Paused by admin" in page.get(f"/rollouts/{rollout}").text


def test_abort_asks_first_and_says_how_many(
    page: FlaskClient, server: Server, rollout: str
) -> None:
    asked = page.get(f"/rollouts/{rollout}/abort")
    done = post(page, f"/rollouts/{rollout}/abort", reason="wrong model", choice="keep")

    assert "3 devices that have not been told yet never will be" in asked.text
    assert done.status_code == 303
    assert state_of(server, rollout) == "aborted"


def test_abort_without_a_reason_changes_nothing(
    page: FlaskClient, server: Server, rollout: str
) -> None:
    answer = post(page, f"/rollouts/{rollout}/abort", reason=" ", choice="keep")

    assert answer.status_code == 422
    assert "Say why" in answer.text
    assert state_of(server, rollout) == "running"


def test_a_post_from_elsewhere_changes_nothing(
    page: FlaskClient, server: Server, rollout: str
) -> None:
    answer = page.post(f"/rollouts/{rollout}/pause", data={"csrf_token": "guessed"})

    assert answer.status_code == 403
    assert state_of(server, rollout) == "running"


def test_a_second_rollout_is_refused_on_its_form(page: FlaskClient, rollout: str) -> None:
    answer = post(page, f"/models/{MODEL}/{VERSION}/roll-out", strategy="all", rate="")

    assert answer.status_code == 409
    assert "finish or abort it first" in answer.text


@pytest.mark.parametrize("rate", ["0", "-3", "many", "inf", "nan"])
def test_a_nonsense_rate_is_refused_on_the_form(page: FlaskClient, rollout: str, rate: str) -> None:
    answer = post(page, f"/models/{MODEL}/{VERSION}/roll-out", strategy="all", rate=rate)

    assert answer.status_code == 422
    assert "rate_per_minute" in answer.text


def test_revoking_takes_a_reason_and_shows(page: FlaskClient, rollout: str) -> None:
    done = post(page, "/devices/dev-1/revoke", reason="lost <b>van</b>")
    shown = page.get("/devices/dev-1").text

    assert done.status_code == 303
    assert "lost &lt;b&gt;van&lt;/b&gt;" in shown
    assert "<b>van</b>" not in shown


@pytest.mark.parametrize(
    "url",
    ["/devices/none", "/rollouts/none", "/models/none/1.0.0", "/rollouts/none/abort"],
)
def test_what_is_not_there_is_said_on_a_page(page: FlaskClient, url: str) -> None:
    answer = page.get(url)

    assert answer.status_code == 404
    assert "There is no" in answer.text


def test_search_finds_devices_releases_and_rollouts(page: FlaskClient, rollout: str) -> None:
    assert ">dev-1<" in page.get("/search?q=ev-1").text
    assert "digits 1.0.0" in page.get("/search?q=digi").text
    assert f"/rollouts/{rollout}" in page.get(f"/search?q={rollout[:8]}").text
    assert "Nothing." in page.get("/search?q=%25").text


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, words.NOTHING),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234567, "1.23 MB"),
        (999_999, "1 MB"),
        (123_456_789, "123 MB"),
        (5e12, "5 TB"),
    ],
)
def test_sizes_in_words(count: float | None, said: str) -> None:
    assert words.size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (-172800, "in 2 d")],
)
def test_times_in_words(seconds: int, said: str) -> None:
    now = utcnow()

    assert words.ago(now - timedelta(seconds=seconds), now) == said


def test_a_bar_tells_its_counts_in_words() -> None:
    bar = charts.stacked_bar(
        [charts.Part("good", "committed", 3), charts.Part("bad", "failed", 0)], "devices"
    )

    assert 'aria-label="devices: 3 committed"' in bar
    assert "fill-bad" not in bar


def state_of(server: Server, rollout: str) -> str:
    with server.db.read() as session:
        return session.get_one(Rollout, rollout).state
