"""Enrolment tokens: a one-time secret, and what the device shall believe about its fleet.

The digests of the fleet's CA and of its root come with the token, out of band, so nobody between
device and server can put others in their place.
"""

import base64
import binascii
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Self

import rfc8785

from edgec_bundle import strict_json
from edgec_bundle.digest import is_digest, sha256_hex
from edgec_bundle.errors import SignatureError, TrustError
from edgec_bundle.manifest import NAME

_PREFIX = "edgec1."
_SECRET = re.compile(r"[A-Za-z0-9_-]{32,128}")
_MAX_CHARACTERS = 2048


def new_secret() -> str:
    """Return a fresh secret of 192 random bits."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """What a device gets by hand, once, to join a fleet. str() is its one-line form."""

    secret: str = field(repr=False)
    tenant: str
    ca_sha256: str  # of the CA certificate's DER form
    root_sha256: str  # of root.json

    def __post_init__(self) -> None:
        if not (
            _SECRET.fullmatch(self.secret)
            and NAME.fullmatch(self.tenant)
            and is_digest(self.ca_sha256)
            and is_digest(self.root_sha256)
        ):
            raise TrustError("not an enrolment token: a part of it is malformed")

    def __str__(self) -> str:
        payload = rfc8785.dumps(
            {
                "secret": self.secret,
                "tenant": self.tenant,
                "ca_sha256": self.ca_sha256,
                "root_sha256": self.root_sha256,
            }
        )
        return _PREFIX + base64.urlsafe_b64encode(payload).decode("ascii").rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the token in `text`; the inverse of str(). Raises TrustError."""
        body = text.strip().removeprefix(_PREFIX)
        if not text.strip().startswith(_PREFIX) or len(body) > _MAX_CHARACTERS:
            raise TrustError(f"not an enrolment token: expected {_PREFIX}...")
        try:
            padded = body + "=" * (-len(body) % 4)
            payload = base64.b64decode(padded, altchars=b"-_", validate=True)
            raw = strict_json.loads(payload, max_bytes=_MAX_CHARACTERS, max_depth=2)
        except (binascii.Error, ValueError) as error:
            raise TrustError("not an enrolment token: it is damaged or cut short") from error
        match raw:
            case {
                "secret": str(secret),
                "tenant": str(tenant),
                "ca_sha256": str(ca_sha256),
                "root_sha256": str(root_sha256),
            }:
                return cls(secret, tenant, ca_sha256, root_sha256)
        raise TrustError("not an enrolment token: a part of it is missing")

    @property
    def secret_sha256(self) -> str:
        """What a server stores instead of the secret."""
        return sha256_hex(self.secret.encode("ascii"))

    def check_fleet(self, ca_der: bytes, root: bytes) -> None:
        """Return if these are the CA and the root that the token pins.

        Raises:
            SignatureError: somebody has put others in their place.
        """
        if not hmac.compare_digest(sha256_hex(ca_der), self.ca_sha256):
            raise SignatureError("the fleet's CA is not the one that the token pins")
        if not hmac.compare_digest(sha256_hex(root), self.root_sha256):
            raise SignatureError("the fleet's root is not the one that the token pins")
