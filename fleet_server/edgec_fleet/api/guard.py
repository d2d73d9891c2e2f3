"""Who is calling, and may they: API tokens, browser sessions, roles, CSRF, login limits.

    @blueprint.post("/v1/things")
    @requires("operator")
    def make_thing() -> ...:
        caller = current_caller()

A browser session is a cookie; an unsafe request with it must repeat the session's CSRF secret
in the header X-CSRF-Token or the form field csrf_token. Requests with an API token need none:
no browser sends one by itself.
"""

import hmac
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Response, current_app, g, request

from edgec_bundle.digest import sha256_hex
from edgec_fleet import audit, identity, limits
from edgec_fleet.errors import ForbiddenError, UnauthenticatedError
from edgec_fleet.identity import Caller
from edgec_fleet.server import Server

COOKIE = "edgec_session"
FAILED_LOGINS = 10  # per window and address, and per window and user name
LOGIN_WINDOW_S = 300
_SAFE = ("GET", "HEAD", "OPTIONS")

F = TypeVar("F", bound=Callable[..., Any])


def server() -> Server:
    """Return the opened server of the app that handles this request."""
    return cast(Server, current_app.extensions["edgec"])


def current_caller() -> Caller:
    """Return who makes this request. Raises UnauthenticatedError: nobody we know."""
    caller = find_caller()
    if caller is None:
        raise UnauthenticatedError("log in, or send an API token as: Authorization: Bearer TOKEN")
    return caller


def find_caller() -> Caller | None:
    """Return who makes this request, or None."""
    if "caller" not in g:
        g.caller = _identify()
        if g.caller is not None and not identity.was_used_lately(g.caller):
            with server().db.write() as session:
                identity.note_use(session, g.caller)
    return cast(Caller | None, g.caller)


def requires(role: str, *, takes_upload: bool = False) -> Callable[[F], F]:
    """Let only callers with `role` (or more) into the view, and check CSRF of sessions.

    Put it right below the route, so that nobody unknown gets as far as validation.

    Args:
        role: one of ROLES.
        takes_upload: the body may be as large as the settings allow for uploads.
    """

    def decorate(view: F) -> F:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            caller = current_caller()
            if not caller.may(role):
                raise ForbiddenError(f"{caller.name} is {caller.role}; this takes {role}")
            if takes_upload:
                request.max_content_length = server().settings.max_upload_bytes
            check_csrf(caller)
            return view(*args, **kwargs)

        spec = dict(getattr(view, "_spec", {}))
        guarded._spec = {**spec, "security": ["token", "session"]}  # type: ignore[attr-defined]
        guarded._required_role = role  # type: ignore[attr-defined]
        return cast(F, guarded)

    return decorate


def check_csrf(caller: Caller) -> None:
    """Raise ForbiddenError for an unsafe request of a session that lacks its CSRF secret."""
    if caller.csrf is None or request.method in _SAFE:
        return
    sent = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token", "")
    if not hmac.compare_digest(sent.encode(), caller.csrf.encode()):
        raise ForbiddenError("the page is too old or the request came from elsewhere: reload it")


def log_in(tenant: str, name: str, password: str) -> tuple[str, str]:
    """Check the password and begin a session: (the cookie's secret, its CSRF secret).

    Raises:
        UnauthenticatedError: wrong name or password; which of them is not told.
        TooManyError: too many failed attempts from this address or for this name.
    """
    here = server()
    address = request.remote_addr or "unknown"
    buckets = f"login:address:{address}", f"login:user:{tenant}/{sha256_hex(name.encode())}"
    with here.db.read() as session:
        limits.check(session, *buckets, limit=FAILED_LOGINS, window_s=LOGIN_WINDOW_S)
        actor = identity.find_user(session, tenant, name)
    if not identity.check_password(actor, password) or actor is None:
        with here.db.write() as session:
            limits.count(session, *buckets, window_s=LOGIN_WINDOW_S)
            if actor is not None:
                audit.record(
                    session, tenant, audit.SYSTEM, "user.login_failed", "user", name, by=address
                )
        raise UnauthenticatedError("wrong name or password")
    with here.db.write() as session:
        secret, row = identity.start_session(
            session, session.merge(actor), here.settings.session_hours
        )
    return secret, row.csrf


def set_cookie(response: Response, secret: str) -> None:
    """Give the browser its session cookie."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=server().settings.session_hours * 3600,
        httponly=True,
        samesite="Lax",
        secure=request.is_secure,
    )


def log_out(response: Response) -> None:
    """End the caller's session and take the cookie back."""
    caller = find_caller()
    if caller is not None and caller.session_id is not None:
        with server().db.write() as session:
            identity.end_session(session, caller)
    response.delete_cookie(COOKIE, httponly=True, samesite="Lax")


def _identify() -> Caller | None:
    """Find the caller by API token first, else by session cookie."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not token:
            return None
        with server().db.read() as session:
            return identity.caller_of_token(session, token.strip())
    cookie = request.cookies.get(COOKIE)
    if not cookie:
        return None
    with server().db.read() as session:
        return identity.caller_of_session(session, cookie)
