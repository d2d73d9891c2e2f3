"""Every refusal as JSON: {"error": one sentence, "detail": facts or null}. Never a traceback."""

import logging
from typing import Any

from apiflask import APIFlask, HTTPError
from flask import Response, jsonify, request
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from edgec_bundle.errors import BundleError
from edgec_fleet.db.session import AWAY
from edgec_fleet.errors import FleetError, SettingsError, TooManyError

logger = logging.getLogger(__name__)

_SENTENCES = {
    400: "the request is not well-formed",
    401: "log in, or send an API token as: Authorization: Bearer TOKEN",
    404: "there is nothing at this address",
    405: "this address does not take that method",
    411: "the request must say its Content-Length",
    413: "the request is larger than this address takes",
    415: "expected another Content-Type",
    416: "the range lies outside the blob",
}


def problem(status: int, error: str, detail: object = None) -> Response:
    """Return the JSON answer of a refusal."""
    response = jsonify({"error": error, "detail": detail})
    response.status_code = status
    return response


def register(app: APIFlask) -> None:
    """Make every error of `app` leave as a problem."""
    app.error_processor(_validation)
    app.register_error_handler(FleetError, _fleet)
    app.register_error_handler(BundleError, _bundle)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(IntegrityError, _conflict)
    app.register_error_handler(DBAPIError, _database)
    app.register_error_handler(PoolTimeoutError, _database)
    app.register_error_handler(Exception, _unforeseen)


def _validation(error: HTTPError) -> Response:
    """What APIFlask raises: mostly input that does not match its schema."""
    sentence = _first_complaint(error.detail) or _SENTENCES.get(
        error.status_code, error.message or "the request was refused"
    )
    return problem(error.status_code, sentence, error.detail or None)


def _first_complaint(detail: Any, path: str = "") -> str | None:
    """Return "field: what is wrong" for the first leaf of marshmallow's nested messages."""
    match detail:
        case {**items} if items:
            name, rest = next(iter(items.items()))
            inner = str(name) if not path else f"{path}.{name}"
            return _first_complaint(rest, "" if not path and name in _PLACES else inner)
        case [first, *_]:
            return _first_complaint(first, path)
        case str(text):
            return f"{path}: {text}" if path else text
    return None


_PLACES = ("json", "query", "form", "files", "form_and_files", "headers")


def _fleet(error: FleetError) -> Response:
    if isinstance(error, SettingsError):
        logger.error("%s %s: %s", request.method, request.path, error)
    response = problem(error.status, str(error), error.detail)
    if isinstance(error, TooManyError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="edgec"'
    return response


def _bundle(error: BundleError) -> Response:
    """A bundle, signature or message from outside that is not acceptable."""
    return problem(422, str(error), {"kind": type(error).__name__})


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    response = problem(status, _SENTENCES.get(status, error.name))
    for name, value in error.get_headers():
        if name in ("Allow", "Content-Range", "Location"):
            response.headers[name] = value
    return response


def _conflict(error: IntegrityError) -> Response:
    """Two requests made the same thing at the same time; one of them lost."""
    logger.info("%s %s: %s", request.method, request.path, error.orig)
    return problem(409, "somebody else changed this at the same time; look again")


def _database(error: DBAPIError | PoolTimeoutError) -> Response:
    if isinstance(error, AWAY):
        why = str(getattr(error, "orig", error)).partition("\n")[0]
        logger.warning("%s %s: no answer of the database: %s", request.method, request.path, why)
    else:
        logger.exception("%s %s: the database refused", request.method, request.path)
    return problem(503, "the database cannot be used right now; try again")


def _unforeseen(error: Exception) -> Response:
    logger.exception("%s %s failed", request.method, request.path)
    return problem(500, "the server failed; its log says more")
