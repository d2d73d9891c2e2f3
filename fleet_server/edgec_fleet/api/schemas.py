"""What the API takes and gives, as schemas: they validate input and make the OpenAPI document."""

from datetime import UTC, datetime
from typing import Any

from apiflask import Schema
from apiflask.fields import (
    Boolean,
    DateTime,
    Dict,
    Field,
    File,
    Float,
    Integer,
    List,
    Nested,
    String,
)
from apiflask.validators import Length, OneOf, Range, Regexp

from edgec_bundle.manifest import NAME
from edgec_fleet.db.schema import ROLES

NAME_RULE = Regexp(
    rf"(?:{NAME.pattern})\Z", error="expected a-z, 0-9, - and _, at most 63 characters"
)
_NO_NUL = Regexp(r"[^\0]*\Z", error="expected text without NUL")


class Instant(DateTime):
    """An instant as RFC 3339 in UTC: 2026-11-23T04:45:00Z."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        if not isinstance(value, datetime):
            return None
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text(longest: int, **options: Any) -> String:
    """Return a field for text of at most `longest` characters, without NUL."""
    return String(validate=[Length(max=longest), _NO_NUL], **options)


def _file(**options: Any) -> File:
    return File(**options)  # type: ignore[no-untyped-call]


class Problem(Schema):
    """Every refusal: one sentence, and facts if there are any."""

    error = String(required=True)
    detail: Field[Any] = Field(allow_none=True)


class Login(Schema):
    """A user's name and password."""

    name = text(255, required=True)
    password = text(4096, required=True)
    tenant = String(validate=NAME_RULE)


class Me(Schema):
    """Who is calling. `csrf` is set for browser sessions."""

    name = String()
    tenant = String()
    role = String()
    csrf = String(allow_none=True)


class UserIn(Schema):
    """A user to add. Without a password the server makes one."""

    name = String(required=True, validate=NAME_RULE)
    role = String(required=True, validate=OneOf(ROLES))
    password = text(1024, allow_none=True, load_default=None)


class UserChange(Schema):
    """What may be changed about a user."""

    role = String(validate=OneOf(ROLES))
    password = text(1024)
    disabled = Boolean()


class User(Schema):
    """A user."""

    name = String()
    role = String()
    created_at = Instant()
    last_login_at = Instant()
    disabled_at = Instant()
    password = String(metadata={"description": "only when the server made it; shown once"})


class TokenIn(Schema):
    """An API token to make, for oneself."""

    name = text(255, required=True)
    role = String(validate=OneOf(ROLES), allow_none=True, load_default=None)
    days = Integer(validate=Range(1, 3650), allow_none=True, load_default=None)


class Token(Schema):
    """An API token; its text is shown once, when it is made."""

    id = String()
    name = String()
    role = String()
    created_at = Instant()
    expires_at = Instant()
    revoked_at = Instant()
    token = String()


class VariantFile(Schema):
    """A file pinned by a variant's manifest."""

    role = String()
    path = String()
    sha256 = String()
    bytes = Integer()
    shipped = Boolean()


class Variant(Schema):
    """A release for one hardware profile."""

    profile = String()
    manifest_sha256 = String()
    target_path = String()
    signed = Boolean()
    manifest = Dict()
    measurements = Dict(allow_none=True)
    files = List(Nested(VariantFile))


class Release(Schema):
    """One version of a model line."""

    model = String()
    version = String()
    release = Integer(attribute="number")
    state = String()
    created_at = Instant()
    published_at = Instant()
    withdrawn_at = Instant()
    withdrawn_reason = String(allow_none=True)
    variants = List(Nested(Variant))


class Published(Release):
    """A release that was just published; `sign_with` is the command that signs it, if needed."""

    sign_with = String(allow_none=True)


class Releases(Schema):
    """Releases, the newest first."""

    releases = List(Nested(Release))


class ReleaseUpload(Schema):
    """All variants of one release, and a finished targets.json if it was signed elsewhere."""

    bundle = List(_file(), required=True)
    targets = _file()


class WithdrawIn(Schema):
    """Why the release shall not be installed any more."""

    reason = text(4096, required=True)


class Model(Schema):
    """A model line and its acceptance set."""

    name = String()
    created_at = Instant()
    acceptance_sha256 = String(allow_none=True)
    acceptance_bytes = Integer(allow_none=True)
    acceptance_minimum = Float(allow_none=True)
    acceptance_metric = String(allow_none=True)


class Models(Schema):
    """Model lines by name."""

    models = List(Nested(Model))


class AcceptanceUpload(Schema):
    """Data and a minimum, or a finished acceptance.json (with the data, if it is new)."""

    data = _file()
    minimum = Float(validate=Range(0, 1))
    metric = String(validate=NAME_RULE, load_default="accuracy")
    acceptance = _file()


class TargetsUpload(Schema):
    """A finished targets.json. Releases that it no longer lists must be named in `withdraw`."""

    targets = _file(required=True)
    withdraw = List(text(512), load_default=list)


class EnrolmentTokenIn(Schema):
    """An enrolment token to make."""

    hours = Float(validate=Range(0, 24 * 365, min_inclusive=False), load_default=24.0)
    max_uses = Integer(validate=Range(1, 100_000), load_default=1)
    tags = Dict(keys=text(63), values=text(255), load_default=dict)
    note = text(255, load_default="")


class EnrolmentToken(Schema):
    """An enrolment token; its text is shown once, when it is made."""

    id = String()
    note = String()
    tags = Dict()
    created_at = Instant()
    expires_at = Instant()
    max_uses = Integer()
    uses = Integer()
    revoked_at = Instant()
    token = String()


class Enrolment(Schema):
    """What a device needs before it trusts the server; its token pins both digests."""

    ca = String(metadata={"description": "the fleet CA, PEM"})
    root = String(metadata={"description": "version 1 of root.json, base64"})
    devices = String(metadata={"description": "base URL of the devices' listener"})


class EnrolIn(Schema):
    """A device that wants a certificate."""

    secret = text(256, required=True)
    csr = text(16 * 1024, required=True)
    device = String(validate=NAME_RULE, allow_none=True, load_default=None)
    profiles = List(String(validate=NAME_RULE), validate=Length(max=32), load_default=list)
    tags = Dict(keys=text(63), values=text(255), load_default=dict)


class BrokerAddress(Schema):
    """Where the broker listens with TLS."""

    host = String()
    port = Integer()


class Enrolled(Schema):
    """A device's certificate, and where to go with it."""

    device = String()
    tenant = String()
    certificate = String()
    mqtt = Nested(BrokerAddress)
    devices = String()


class RenewIn(Schema):
    """A signing request for the next certificate."""

    csr = text(16 * 1024, required=True)


class Renewed(Schema):
    """The next certificate, PEM."""

    certificate = String()


class DeviceQuery(Schema):
    """Which devices to list."""

    q = text(63, metadata={"description": "part of the device id"})
    online = Boolean()
    tag = List(text(320), metadata={"description": "name=value; repeat for more"})
    after = text(63, metadata={"description": "the device id that the last page ended with"})
    limit = Integer(validate=Range(1, 500), load_default=100)


class Device(Schema):
    """A device, as it last reported itself."""

    id = String()
    profiles = List(String())
    tags = Dict()
    online = Boolean()
    last_contact_at = Instant()
    enrolled_at = Instant()
    revoked_at = Instant()
    revoked_reason = String(allow_none=True)
    certificate_serial = String(allow_none=True)
    certificate_expires_at = Instant()
    boot_id = String(allow_none=True)
    hello = Dict(allow_none=True)
    models = Dict()
    counter = Integer()


class Devices(Schema):
    """A page of devices by id; `next` goes into `after` of the next request."""

    devices = List(Nested(Device))
    total = Integer()
    next = String(allow_none=True)


class DeviceEvent(Schema):
    """One entry of a device's timeline."""

    id = Integer()
    at = Instant()
    reported_at = Instant()
    kind = String()
    model = String(allow_none=True)
    manifest_sha256 = String(allow_none=True)
    counter = Integer(allow_none=True)
    rollout_id = String(allow_none=True)
    phase = String(allow_none=True)
    previous_phase = String(allow_none=True)
    reason = String(allow_none=True)
    evidence = Dict()


class DeviceWithEvents(Device):
    """A device and its timeline, the newest first."""

    events = List(Nested(DeviceEvent))


class RevokeIn(Schema):
    """Why the device is shut out."""

    reason = text(4096, load_default="revoked by an operator")


class TagsIn(Schema):
    """The tags that the device shall have from now on."""

    tags = Dict(keys=text(63), values=text(255), required=True)


class AuditQuery(Schema):
    """Which part of the trail to list."""

    before = Integer(validate=Range(1), metadata={"description": "only entries below this seq"})
    object_kind = text(32)
    object_id = text(255)
    limit = Integer(validate=Range(1, 1000), load_default=100)


class AuditEntry(Schema):
    """One entry of the audit trail."""

    seq = Integer()
    at = Instant()
    actor_name = String()
    action = String()
    object_kind = String()
    object_id = String()
    detail = Dict()
    previous_sha256 = String()
    sha256 = String()


class AuditEntries(Schema):
    """Entries of the trail, the newest first."""

    entries = List(Nested(AuditEntry))


class Part(Schema):
    """A running part of the server."""

    name = String()
    instance = String()
    started_at = Instant()
    beat_at = Instant()


class Health(Schema):
    """Whether the server can do its work."""

    ok = Boolean()
    version = String()
    parts = List(Nested(Part))
