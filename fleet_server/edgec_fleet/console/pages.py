"""The console's pages: each reads through `queries`. What changes something is in `steering`."""

from typing import Any

from flask import render_template, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_fleet import enrolment
from edgec_fleet.api import guard
from edgec_fleet.console import charts, queries, words
from edgec_fleet.console.charts import Compared, Part
from edgec_fleet.console.finding import search as search_for
from edgec_fleet.console.frame import console, shown_to
from edgec_fleet.db.schema import Actor, Release, Rollout, TrustSet
from edgec_fleet.errors import UnknownError

# How a device stands in a rollout, in the order of the bar and its legend.
STANDINGS = (
    "committed",
    "probation",
    "in_progress",
    "assigned",
    "queued",
    "failed",
    "rejected",
    "rolled_back",
    "timed_out",
    "cancelled",
)


@console.get("/")
@shown_to("viewer")
def overview() -> ResponseReturnValue:
    """Four questions: alive, running, moving, hurting."""
    tenant = guard.current_caller().tenant
    with guard.server().db.read() as session:
        life = queries.life(session, tenant)
        moving = [
            _row(session, rollout)
            for state in ("paused", "running")
            for rollout in queries.rollouts(session, tenant, state, 1).rows
        ]
        return render_template(
            "overview.html",
            life=life,
            life_bar=_life_bar(life),
            moving=moving,
            running=queries.running(session, tenant),
            alerts=queries.alerts(session, tenant, closed=False, limit=5),
            failures=queries.failures(session, tenant),
        )


@console.get("/devices")
@shown_to("viewer")
def devices() -> ResponseReturnValue:
    """Every device, filtered and paged by the server."""
    state, text = request.args.get("state", ""), request.args.get("text", "")
    with guard.server().db.read() as session:
        found = queries.devices(session, guard.current_caller().tenant, state, text, _number())
    return render_template("devices.html", page=found, state=state, text=text)


@console.get("/devices/<identity>")
@shown_to("viewer")
def device(identity: str) -> ResponseReturnValue:
    """What one device is, runs and went through."""
    tenant = guard.current_caller().tenant
    with guard.server().db.read() as session:
        found = enrolment.get_device(session, tenant, identity)
        timeline = queries.timeline(session, found.id)
        digests = {event.manifest_sha256 for event in timeline if event.manifest_sha256}
        digests |= {state["candidate"] for state in found.models.values() if state.get("candidate")}
        return render_template(
            "device.html",
            device=found,
            timeline=timeline,
            telemetry=queries.latest_telemetry(session, found.id),
            named=queries.releases_of_manifests(session, tenant, digests),
        )


@console.get("/models")
@shown_to("viewer")
def models() -> ResponseReturnValue:
    """Every model line with its releases."""
    with guard.server().db.read() as session:
        lines = queries.models(session, guard.current_caller().tenant)
    return render_template("models.html", lines=lines)


@console.get("/models/<model>/<version>")
@shown_to("viewer")
def release(model: str, version: str) -> ResponseReturnValue:
    """What the compiler said of one release."""
    with guard.server().db.read() as session:
        return render_template("release.html", release=find_release(session, model, version))


@console.get("/rollouts")
@shown_to("viewer")
def rollouts() -> ResponseReturnValue:
    """Every rollout, newest first."""
    state = request.args.get("state", "")
    with guard.server().db.read() as session:
        found = queries.rollouts(session, guard.current_caller().tenant, state, _number())
        rows = [_row(session, rollout) for rollout in found.rows]
    return render_template("rollouts.html", page=found, rows=rows, state=state)


@console.get("/rollouts/<identity>")
@shown_to("viewer")
def rollout(identity: str) -> ResponseReturnValue:
    """One rollout: where it stands, and why."""
    with guard.server().db.read() as session:
        found = find_rollout(session, identity)
        progress = queries.progress(session, found)
        released = session.get(Release, found.release_id)
        previous = queries.previous_release(session, released) if released else None
        return render_template(
            "rollout.html",
            rollout=found,
            previous=previous,
            progress=progress,
            bars={p.group.id: _bar(p.counts, f"group {p.group.name}") for p in progress},
            order=STANDINGS,
            charts=_before_after(session, found.tenant, previous, released),
            shipped=queries.shipped(session, found.id),
            page=queries.updates(session, found.id, _number()),
            log=queries.log(session, found.id),
            group_names={group.id: group.name for group in found.groups},
        )


@console.get("/alerts")
@shown_to("viewer")
def alerts() -> ResponseReturnValue:
    """What hurts, and what did."""
    tenant = guard.current_caller().tenant
    with guard.server().db.read() as session:
        return render_template(
            "alerts.html",
            open=queries.alerts(session, tenant, closed=False),
            closed=queries.alerts(session, tenant, closed=True, limit=25),
        )


@console.get("/audit")
@shown_to("viewer")
def audit() -> ResponseReturnValue:
    """Who did what."""
    with guard.server().db.read() as session:
        found = queries.audit_page(session, guard.current_caller().tenant, _number())
    return render_template("audit.html", page=found)


@console.get("/settings")
@shown_to("viewer")
def settings() -> ResponseReturnValue:
    """The server's parts, addresses, trust metadata and people."""
    tenant, here = guard.current_caller().tenant, guard.server().settings
    with guard.server().db.read() as session:
        users = session.scalars(
            select(Actor).where(Actor.tenant == tenant, Actor.kind == "user").order_by(Actor.name)
        ).all()
        return render_template(
            "settings.html",
            running_parts=queries.parts(session),
            users=users,
            trust=session.get(TrustSet, tenant),
            addresses=(
                ("Console and API", here.http),
                ("Devices, HTTPS", here.public_devices_url),
                ("Devices, MQTT", here.public_mqtt),
            ),
        )


@console.get("/search")
@shown_to("viewer")
def search() -> ResponseReturnValue:
    """Find devices, releases and rollouts."""
    text = request.args.get("q", "").strip()
    with guard.server().db.read() as session:
        found = search_for(session, guard.current_caller().tenant, text) if text else {}
    return render_template("search.html", text=text, found=found)


def _row(session: Session, rollout: Rollout) -> tuple[Rollout, Markup, int, int]:
    """Return (rollout, its bar, devices committed, devices in all)."""
    progress = queries.progress(session, rollout)
    counts = {name: sum(p.counts[name] for p in progress) for name in STANDINGS}
    return rollout, _bar(counts, "devices"), counts["committed"], sum(counts.values())


def _bar(counts: Any, title: str) -> Markup:
    parts = [Part(words.badge(n).kind, words.badge(n).text, counts[n]) for n in STANDINGS]
    return charts.stacked_bar(parts, title)


def _life_bar(life: queries.Life) -> Markup:
    named = ("online", "offline", "silent", "revoked")
    parts = [Part(words.badge(n).kind, n, getattr(life, n)) for n in named]
    return charts.stacked_bar(parts, "devices")


def _before_after(
    session: Session, tenant: str, previous: Release | None, released: Release | None
) -> list[Markup]:
    """Return the small multiples: what devices measured of the previous and of this release."""
    before, after = (
        queries.measured(session, tenant, [v.manifest_sha256 for v in r.variants])
        if r
        else queries.Measured()
        for r in (previous, released)
    )
    seen = (before.requests, after.requests)
    quantities = (
        Compared("Latency p50", "ms", before.p50_ms, after.p50_ms, *seen),
        Compared("Latency p95", "ms", before.p95_ms, after.p95_ms, *seen),
        Compared("Failed requests", "%", _rate(before), _rate(after), *seen),
    )
    return [charts.before_after(quantity) for quantity in quantities]


def _rate(seen: queries.Measured) -> float | None:
    return 100 * seen.failed / seen.requests if seen.requests else None


def find_release(session: Session, model: str, version: str) -> Release:
    """Return the caller's release. Raises UnknownError."""
    found = queries.release(session, guard.current_caller().tenant, model, version)
    if found is None:
        raise UnknownError(f"there is no release {version} of {model}")
    return found


def find_rollout(session: Session, identity: str) -> Rollout:
    """Return the caller's rollout. Raises UnknownError."""
    found = queries.rollout(session, guard.current_caller().tenant, identity)
    if found is None:
        raise UnknownError(f"there is no rollout {identity}")
    return found


def _number() -> int:
    text = request.args.get("page", "1")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 1
