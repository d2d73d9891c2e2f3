"""Enrolment: a one-time token lets a device exchange a signing request for a certificate."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography import x509
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_bundle.digest import sha256_hex
from edgec_bundle.manifest import NAME
from edgec_bundle.trust.tokens import EnrolmentToken as TokenText
from edgec_fleet import audit, pki
from edgec_fleet.db.schema import (
    Certificate,
    Device,
    DeviceEvent,
    EnrolmentToken,
    EnrolmentUse,
    new_id,
    utcnow,
)
from edgec_fleet.errors import ConflictError, ForbiddenError, RefusedError, UnknownError
from edgec_fleet.registry import trust_state
from edgec_fleet.server import Server

MAXIMUM_USES = 100_000
MAXIMUM_TAGS = 64
MAXIMUM_PROFILES = 32


@dataclass(frozen=True, slots=True)
class Wish:
    """What a device asks for when it enrols. Everything in it is unverified."""

    secret: str
    csr: str
    device: str | None = None
    profiles: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Who the device is from now on."""

    device: str
    tenant: str
    certificate: str  # PEM


def create_token(
    server: Server,
    session: Session,
    tenant: str,
    by: audit.Actor,
    *,
    actor_id: str | None = None,
    valid: timedelta = timedelta(days=1),
    max_uses: int = 1,
    tags: Mapping[str, str] | None = None,
    note: str = "",
) -> tuple[str, EnrolmentToken]:
    """Make a token and return (its text, shown once; its row).

    The text also pins the fleet CA and the first root, so that nobody between device and server
    can put their own in its place. Raises RefusedError.
    """
    if not 1 <= max_uses <= MAXIMUM_USES:
        raise RefusedError(f"expected 1 to {MAXIMUM_USES} uses, got {max_uses}")
    if not timedelta(0) < valid <= timedelta(days=365):
        raise RefusedError("expected a life of up to 365 days")
    secret = secrets.token_urlsafe(32)
    row = EnrolmentToken(
        id=new_id(),
        tenant=tenant,
        secret_sha256=_sha256(secret),
        note=note[:255],
        tags=check_tags(tags or {}),
        created_by=actor_id,
        expires_at=utcnow() + valid,
        max_uses=max_uses,
    )
    session.add(row)
    session.flush()
    audit.record(
        session, tenant, by, "enrolment.token", "enrolment_token", row.id, max_uses=max_uses
    )
    text = TokenText(
        secret=secret,
        tenant=tenant,
        ca_sha256=server.authority.sha256,
        root_sha256=sha256_hex(trust_state.first_root(session, tenant)),
    )
    return str(text), row


def revoke_token(session: Session, row: EnrolmentToken, by: audit.Actor) -> None:
    """Make an enrolment token worthless; devices that used it stay."""
    row.revoked_at = row.revoked_at or utcnow()
    audit.record(session, row.tenant, by, "enrolment.revoke", "enrolment_token", row.id)


def enrol(server: Server, session: Session, wish: Wish) -> Enrolled:
    """Exchange the token's secret and a signing request for a certificate.

    The same token with the same key gets the same device's certificate again, since the first
    answer may have been lost on the way.

    Raises:
        ForbiddenError: the token is unknown, used up, expired or revoked.
        RefusedError: the request, the id, the profiles or the tags are not acceptable.
        ConflictError: the id is taken, by whatever tenant.
    """
    token = _usable_token(session, wish.secret)
    key = pki.read_csr(wish.csr)
    device = _device_of(session, token, wish, pki.spki_sha256(key))
    issued = server.authority.issue_device(
        key,
        tenant=device.tenant,
        device=device.id,
        days=server.settings.device_certificate_days,
    )
    _hand_over(session, device, issued, "enrolled")
    audit.record(
        session,
        device.tenant,
        audit.Actor(f"device {device.id}"),
        "device.enrol",
        "device",
        device.id,
        token=token.id,
        serial=issued.serial,
    )
    return Enrolled(device.id, device.tenant, issued.pem)


def renew(server: Server, session: Session, device: Device, csr: str) -> str:
    """Return a new certificate (PEM) for `device`, which proved itself with its present one.

    The one before stays valid until it expires, for the answer may be lost. Raises RefusedError.
    """
    key = pki.read_csr(csr)
    issued = server.authority.issue_device(
        key,
        tenant=device.tenant,
        device=device.id,
        days=server.settings.device_certificate_days,
    )
    _hand_over(session, device, issued, "renewed")
    return issued.pem


def identify(session: Session, certificate_der: bytes) -> Device:
    """Return the device whose client certificate this is; TLS has verified its chain.

    Raises ForbiddenError: the certificate or the device was revoked, or we never issued it.
    """
    certificate = x509.load_der_x509_certificate(certificate_der)
    row = session.get(Certificate, pki.serial_hex(certificate))
    if row is None or row.kind != "device" or row.revoked_at is not None:
        raise ForbiddenError("this certificate is not valid here (any more): enrol again")
    device = session.get(Device, row.subject)
    if device is None or device.revoked_at is not None or device.tenant != row.tenant:
        raise ForbiddenError("this device was revoked")
    return device


def revoke(session: Session, device: Device, reason: str, by: audit.Actor) -> None:
    """Shut the device out for good. Raises ConflictError: it was revoked before."""
    if device.revoked_at is not None:
        raise ConflictError(f"{device.id} was revoked before")
    device.revoked_at, device.revoked_reason = utcnow(), reason
    device.online = False
    certificates = pki.revoke(session, device.id, "device revoked")
    session.add(
        DeviceEvent(tenant=device.tenant, device_id=device.id, kind="revoked", reason=reason)
    )
    audit.record(
        session,
        device.tenant,
        by,
        "device.revoke",
        "device",
        device.id,
        reason=reason,
        certificates=certificates,
    )


def get_device(session: Session, tenant: str, device_id: str) -> Device:
    """Return the tenant's device. Raises UnknownError."""
    device = session.get(Device, device_id)
    if device is None or device.tenant != tenant:
        raise UnknownError(f"there is no device {device_id}")
    return device


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return `tags` if names and values are acceptable. Raises RefusedError."""
    if len(tags) > MAXIMUM_TAGS:
        raise RefusedError(f"expected at most {MAXIMUM_TAGS} tags")
    for name, value in tags.items():
        if not NAME.fullmatch(name) or not value.isprintable() or len(value) > 255:
            raise RefusedError(f"expected a tag like site=berlin-3, got {name!r}={value!r}")
    return dict(tags)


def _usable_token(session: Session, secret: str) -> EnrolmentToken:
    token = session.scalar(
        select(EnrolmentToken)
        .where(EnrolmentToken.secret_sha256 == _sha256(secret))
        .with_for_update()
    )
    if token is None or token.revoked_at is not None or token.expires_at <= utcnow():
        raise ForbiddenError("the enrolment token is unknown, expired or revoked")
    return token


def _device_of(session: Session, token: EnrolmentToken, wish: Wish, fingerprint: str) -> Device:
    """Return the device that this key enrolled with this token before, or a new one."""
    device_id = session.scalar(
        select(EnrolmentUse.device_id).where(
            EnrolmentUse.token_id == token.id, EnrolmentUse.spki_sha256 == fingerprint
        )
    )
    if device_id is not None:
        device = session.get_one(Device, device_id)
        if device.revoked_at is not None:
            raise ForbiddenError("this device was revoked")
        return device
    if token.uses >= token.max_uses:
        raise ForbiddenError("the enrolment token was used before; make a new one")
    device = _new_device(session, token, wish)
    token.uses += 1
    session.add(
        EnrolmentUse(
            token_id=token.id,
            device_id=device.id,
            tenant=token.tenant,
            spki_sha256=fingerprint,
        )
    )
    return device


def _new_device(session: Session, token: EnrolmentToken, wish: Wish) -> Device:
    """Return the row of a new device. Tags of the token win over those the device sends."""
    device_id = wish.device if wish.device is not None else f"device-{secrets.token_hex(6)}"
    if not NAME.fullmatch(device_id):
        raise RefusedError(f"expected a device id of a-z, 0-9, - and _, got {device_id!r}")
    if len(wish.profiles) > MAXIMUM_PROFILES or not all(map(NAME.fullmatch, wish.profiles)):
        raise RefusedError("expected profile names")
    if session.get(Device, device_id) is not None:
        raise ConflictError(f"the device id {device_id} is taken; choose another")
    device = Device(
        id=device_id,
        tenant=token.tenant,
        profiles=list(wish.profiles),
        tags={**check_tags(wish.tags), **token.tags},
    )
    session.add(device)
    session.flush()
    return device


def _hand_over(session: Session, device: Device, issued: pki.Issued, kind: str) -> None:
    """Note the device's new certificate, in its row, among certificates and on its timeline."""
    pki.remember(session, issued, tenant=device.tenant, kind="device", subject=device.id)
    device.certificate_serial = issued.serial
    device.certificate_expires_at = issued.certificate.not_valid_after_utc
    session.add(DeviceEvent(tenant=device.tenant, device_id=device.id, kind=kind))
    session.flush()


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
