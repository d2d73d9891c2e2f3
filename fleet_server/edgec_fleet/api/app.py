"""Assembles the two WSGI applications: one for people and tools, one for devices."""

import functools
import threading
import warnings
from typing import Any

from apiflask import APIBlueprint, APIFlask
from flask import Response, jsonify

from edgec_fleet import __version__
from edgec_fleet.api import (
    accounts,
    device_api,
    devices,
    documentation,
    problems,
    records,
    releases,
    rollouts,
    schemas,
)
from edgec_fleet.api.requests import MAXIMUM_BODY_BYTES, BoundedRequest
from edgec_fleet.console import console
from edgec_fleet.server import Server

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
}
_PARTS: tuple[APIBlueprint, ...] = (
    releases.blueprint,
    devices.blueprint,
    rollouts.blueprint,
    accounts.blueprint,
    records.blueprint,
    device_api.before_enrolment,
)


def operators_app(server: Server) -> APIFlask:
    """Return the application of the operators' listener: REST API, its docs, the console."""
    app = _app(server, "edgec fleet API")
    app.security_schemes = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": "edgec_session"},
    }
    for blueprint in _PARTS:
        app.register_blueprint(blueprint)
    app.register_blueprint(console)

    _add_documentation(app)
    return app


def devices_app(server: Server) -> APIFlask:
    """Return the application of the devices' listener."""
    app = _app(server, "edgec devices API")
    app.security_schemes = {"certificate": {"type": "mutualTLS"}}
    app.register_blueprint(device_api.before_enrolment)
    app.register_blueprint(device_api.blueprint)
    _add_documentation(app)
    return app


def _app(server: Server, title: str) -> APIFlask:
    app = APIFlask(
        "edgec_fleet",
        title=title,
        version=__version__,
        docs_path=None,
        spec_path=None,
        static_folder=None,  # type: ignore[arg-type]
    )
    app.request_class = BoundedRequest
    app.extensions["edgec"] = server
    app.config.update(
        UPLOADS=str(server.settings.uploads_dir),
        MAX_CONTENT_LENGTH=MAXIMUM_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MAXIMUM_BODY_BYTES,
        MAX_FORM_PARTS=200,
        HTTP_ERROR_SCHEMA=schemas.Problem,
        VALIDATION_ERROR_SCHEMA=schemas.Problem,
        AUTO_SERVERS=False,
    )
    problems.register(app)
    app.after_request(_secure)
    return app


def _secure(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if response.mimetype == "application/json":
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _add_documentation(app: APIFlask) -> None:
    """Serve the OpenAPI document and the page made from it; both are made once, when asked for."""
    lock = threading.Lock()

    @functools.cache
    def spec() -> dict[str, Any]:
        with warnings.catch_warnings():
            # A schema nested in one and the answer of another is met twice; both are equal.
            warnings.filterwarnings("ignore", message=".*already been added to the spec")
            found = app.spec
        assert isinstance(found, dict)  # noqa: S101 (SPEC_FORMAT is json)
        return found

    @functools.cache
    def page() -> str:
        return documentation.render(spec())

    @app.get("/openapi.json")
    @app.doc(hide=True)
    def openapi() -> Response:
        with lock:
            return jsonify(spec())

    @app.get("/docs")
    @app.doc(hide=True)
    def docs() -> Response:
        with lock:
            return Response(page(), mimetype="text/html")
