"""The frame of every console page: who may see it, what it is called, how errors look, login."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from edgec_bundle.errors import BundleError
from edgec_fleet.api import guard
from edgec_fleet.console import queries, words
from edgec_fleet.db.schema import Release, Variant
from edgec_fleet.errors import FleetError, UnauthenticatedError
from edgec_fleet.keystore import AUTHORITATIVE

console = Blueprint(
    "console",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)

RAIL = (
    ("Overview", "console.overview"),
    ("Devices", "console.devices"),
    ("Models", "console.models"),
    ("Rollouts", "console.rollouts"),
    ("Alerts", "console.alerts"),
    ("Audit", "console.audit"),
    ("Settings", "console.settings"),
)
SECTIONS = {
    "console.overview": ("console.overview",),
    "console.devices": ("console.devices", "console.device", "console.revoke_device"),
    "console.models": ("console.models", "console.release", "console.new_rollout"),
    "console.rollouts": ("console.rollouts", "console.rollout", "console.confirm_abort"),
    "console.alerts": ("console.alerts",),
    "console.audit": ("console.audit",),
    "console.settings": ("console.settings",),
}
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

for _filter in (
    words.badge,
    words.size,
    words.percent,
    words.instant,
    words.digest,
    words.sentence,
    words.fact,
):
    console.add_app_template_filter(_filter)
console.add_app_template_filter(queries.state_of, "reachability")


@console.app_template_filter()
def file_bytes(variant: Variant, role: str) -> int | None:
    """Return the size of the variant's file of `role`."""
    return next((file.bytes for file in variant.files if file.role == role), None)


@console.app_template_filter()
def shipped_bytes(variant: Variant) -> int:
    """Return how much a device fetches when it has nothing."""
    return sum(file.bytes for file in variant.files if file.shipped)


@console.app_template_filter()
def worst_accuracy(release: Release) -> float | None:
    """Return the lowest accuracy among the release's variants."""
    known = [(v.manifest.get("metrics") or {}).get("accuracy") or {} for v in release.variants]
    found = [a["compiled"] for a in known if a.get("compiled") is not None]
    return min(found, default=None)


@console.app_template_filter()
def model_bytes(release: Release) -> str:
    """Return the range of model sizes over the release's variants."""
    found = sorted({file_bytes(variant, "model") or 0 for variant in release.variants})
    return (
        " to ".join(words.size(count) for count in dict.fromkeys((found[0], found[-1])))
        if found
        else words.NOTHING
    )


def shown_to(role: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let callers with `role` see a page; send the others to the login or tell them."""

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def page(*args: Any, **kwargs: Any) -> Any:
            if guard.find_caller() is None:
                here = request.full_path.rstrip("?") if request.method == "GET" else None
                return redirect(url_for("console.login", next=here))
            return guard.requires(role)(view)(*args, **kwargs)

        return page

    return decorate


@console.context_processor
def shared() -> dict[str, Any]:
    """What every page needs: who looks, and where they are."""
    caller = guard.find_caller()
    if caller is None:
        return {}
    keys = guard.server().keystore(caller.tenant)
    return {
        "me": caller,
        "rail": RAIL,
        "sections": SECTIONS,
        "dev_keys": [role for role in AUTHORITATIVE if keys.holds(role)]
        if keys.holds_development_keys()
        else [],
        "page_url": _page_url,
    }


@console.after_request
def harden(response: Response) -> Response:
    """Let the page load nothing from elsewhere, be framed by nobody and not be cached."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    if request.endpoint != "console.static":
        response.headers["Cache-Control"] = "no-store"
    return response


@console.errorhandler(FleetError)
@console.errorhandler(BundleError)
def problem(error: FleetError | BundleError) -> ResponseReturnValue:
    """Say what was wrong on a page, and the way back."""
    status = getattr(error, "status", 422)
    if isinstance(error, UnauthenticatedError):
        return redirect(url_for("console.login"))
    title = {403: "Not allowed", 404: "Not found"}.get(status, "That did not work")
    back = _local(request.referrer) or url_for("console.overview")
    return render_template("problem.html", title=title, message=str(error), back=back), status


@console.get("/login")
def login() -> ResponseReturnValue:
    """Ask for name and password."""
    tenant = guard.server().settings.tenant
    return render_template(
        "login.html", next=request.args.get("next", ""), tenant=tenant, name="", error=None
    )


@console.post("/login")
def log_in() -> ResponseReturnValue:
    """Begin a session and go where the caller wanted."""
    form = request.form
    try:
        secret, _ = guard.log_in(
            form.get("tenant", ""), form.get("name", ""), form.get("password", "")
        )
    except FleetError as error:
        answer = make_response(
            render_template(
                "login.html",
                next=form.get("next", ""),
                tenant=form.get("tenant", ""),
                name=form.get("name", ""),
                error=str(error),
            ),
            error.status,
        )
        return answer
    response = make_response(redirect(_local(form.get("next")) or url_for("console.overview"), 303))
    guard.set_cookie(response, secret)
    return response


@console.post("/logout")
@shown_to("viewer")
def logout() -> ResponseReturnValue:
    """End the session."""
    response = make_response(redirect(url_for("console.login"), 303))
    guard.log_out(response)
    return response


def _local(url: str | None) -> str | None:
    """Return the path of `url` if it leads to this console, else None: no open redirects."""
    parts = urlsplit(url or "")
    if parts.netloc not in ("", request.host) or not parts.path.startswith("/"):
        return None
    if parts.path.startswith("//") or "\\" in parts.path:
        return None
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _page_url(number: int) -> str:
    arguments = {**(request.view_args or {}), **request.args.to_dict(), "page": number}
    return url_for(str(request.endpoint), **arguments)
