"""The devices' listener: enrolment before a device has a certificate, everything else with one.

The TLS layer verified the client certificate's chain; here its serial is looked up, so that a
revoked one is refused at the next request.
"""

import base64
from typing import Any

from apiflask import APIBlueprint
from flask import Response, request

from edgec_bundle.digest import is_digest
from edgec_fleet import enrolment, limits
from edgec_fleet.api import schemas
from edgec_fleet.api.blob_response import blob_response
from edgec_fleet.api.guard import server
from edgec_fleet.db.schema import utcnow
from edgec_fleet.errors import ForbiddenError, UnauthenticatedError, UnknownError
from edgec_fleet.registry import reach, trust_state

FAILED_ENROLMENTS = 30  # per window and address
ENROLMENT_WINDOW_S = 300

blueprint = APIBlueprint("device_api", __name__, tag="Devices' listener")
before_enrolment = APIBlueprint("enrolment", __name__, tag="Enrolment")


@before_enrolment.get("/v1/enrolment")
@before_enrolment.output(schemas.Enrolment)
def read_enrolment() -> Any:
    """Fleet CA and first root, to be checked against the digests in an enrolment token."""
    here = server()
    tenant = request.args.get("tenant", here.settings.tenant)
    with here.db.read() as session:
        root = trust_state.first_root(session, tenant)
    return {
        "ca": here.authority.pem,
        "root": base64.b64encode(root).decode(),
        "devices": here.settings.public_devices_url,
    }


@blueprint.post("/v1/enrol")
@blueprint.input(schemas.EnrolIn)
@blueprint.output(schemas.Enrolled)
def enrol(json_data: dict[str, Any]) -> Any:
    """Exchange an enrolment token's secret and a signing request for a certificate."""
    here = server()
    bucket = f"enrol:address:{request.remote_addr}"
    with here.db.read() as session:
        limits.check(session, bucket, limit=FAILED_ENROLMENTS, window_s=ENROLMENT_WINDOW_S)
    try:
        with here.db.write() as session:
            enrolled = enrolment.enrol(here, session, enrolment.Wish(**json_data))
    except ForbiddenError:
        with here.db.write() as session:
            limits.count(session, bucket, window_s=ENROLMENT_WINDOW_S)
        raise
    broker = here.settings.public_mqtt
    return {
        "device": enrolled.device,
        "tenant": enrolled.tenant,
        "certificate": enrolled.certificate,
        "mqtt": {"host": broker.host, "port": broker.port},
        "devices": here.settings.public_devices_url,
    }


@blueprint.post("/v1/renew")
@blueprint.doc(security="certificate")
@blueprint.input(schemas.RenewIn)
@blueprint.output(schemas.Renewed)
def renew(json_data: dict[str, Any]) -> Any:
    """Return the calling device's next certificate."""
    here = server()
    with here.db.write() as session:
        device = enrolment.identify(session, _peer_certificate())
        device.last_contact_at = utcnow()
        return {"certificate": enrolment.renew(here, session, device, json_data["csr"])}


@blueprint.get("/v1/blobs/<sha256>")
@blueprint.doc(
    security="certificate",
    responses={206: "One range of the blob", 304: "Not changed", 416: "Range outside the blob"},
)
def read_blob(sha256: str) -> Response:
    """Return a blob of what the calling device is assigned; Range, If-Range and ETag work."""
    here = server()
    with here.db.read() as session:
        device = enrolment.identify(session, _peer_certificate())
        if not (is_digest(sha256) and reach.may_fetch(session, device, sha256)):
            raise UnknownError(f"there is no blob {sha256[:64]} for this device")
    return blob_response(here.store, sha256)


def _peer_certificate() -> bytes:
    """Return the client certificate (DER) of the TLS connection. Raises UnauthenticatedError."""
    connection = request.environ.get("gunicorn.socket")
    certificate = getattr(connection, "getpeercert", lambda **_: None)(binary_form=True)
    if not isinstance(certificate, bytes) or not certificate:
        raise UnauthenticatedError("connect with the device's client certificate")
    return certificate
