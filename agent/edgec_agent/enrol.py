"""Joining a fleet, and staying in it: token, key on the device, certificate, renewal.

The token pins the fleet's CA and its TUF root by digest, so the first request may go over plain
HTTP: whoever answers with another CA or root is refused. All that follows is TLS by that CA. The
private key is made here and never leaves.
"""

import base64
import binascii
import os
import shutil
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgec_agent.errors import ConfigError, EnrolmentError
from edgec_agent.identity import (
    CA,
    FILE,
    FOLDER,
    PEM,
    ROOT,
    Identity,
    IdentityFolder,
    sync_folder,
    write_file,
)
from edgec_agent.web import request_json
from edgec_bundle.errors import TrustError
from edgec_bundle.trust.state import TrustState
from edgec_bundle.trust.tokens import EnrolmentToken

_RENEW_SHARE = 3  # renewed when a third of the lifetime is left


@dataclass(frozen=True, slots=True)
class Wish:
    """What a device asks for when it enrols."""

    device: str | None = None  # None: the server chooses a name
    profiles: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


def enrol(server: str, token_text: str, folder: Path, wish: Wish) -> Identity:
    """Make `folder` a device of the fleet at `server`; return who it is.

    Raises:
        ConfigError: the folder is enrolled already, or can't be written.
        EnrolmentError: the token is malformed, used, or does not fit the server.
        NetworkError: the server can't be reached, or answers nonsense.
    """
    if IdentityFolder(folder).exists:
        raise ConfigError(f"{folder} is enrolled already; use another folder, or `reset --all`")
    token = _token(token_text)
    found = request_json("GET", f"{server.rstrip('/')}/v1/enrolment")
    ca_pem, root, devices = _pinned(found, token)
    key = ec.generate_private_key(ec.SECP256R1())
    answer = request_json(
        "POST",
        f"{devices}/v1/enrol",
        tls=ssl.create_default_context(cadata=ca_pem),
        body={
            "secret": token.secret,
            "csr": _csr(key, wish.device or "device", token.tenant),
            "device": wish.device,
            "profiles": list(wish.profiles),
            "tags": dict(wish.tags),
        },
    )
    identity = _identity(answer, token.tenant, devices, wish)
    certificate = _check_certificate(
        str(answer.get("certificate")), key, ca_pem, identity.device, identity.tenant
    )
    _write(folder, identity, _pem(key, certificate), ca_pem.encode(), root)
    return identity


def renewal_is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Return whether less than a third of the certificate's life is left at `now`."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start <= now and (end - now) < (end - start) / _RENEW_SHARE


def renew(folder: IdentityFolder, identity: Identity, tls: ssl.SSLContext) -> None:
    """Replace key and certificate by new ones.

    Raises:
        EnrolmentError: the server refuses, or sends a certificate for somebody else.
        NetworkError: the server can't be reached.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    answer = request_json(
        "POST",
        f"{identity.devices_url}/v1/renew",
        tls=tls,
        body={"csr": _csr(key, identity.device, identity.tenant)},
    )
    ca_pem = (folder.path / CA).read_text()
    text = str(answer.get("certificate"))
    certificate = _check_certificate(text, key, ca_pem, identity.device, identity.tenant)
    folder.replace_pem(_pem(key, certificate))


def _token(text: str) -> EnrolmentToken:
    try:
        return EnrolmentToken.parse(text)
    except TrustError as error:
        raise EnrolmentError(str(error)) from error


def _pinned(found: Mapping[str, Any], token: EnrolmentToken) -> tuple[str, bytes, str]:
    """Return CA, root and address from the server's answer, if they are what the token pins."""
    match found:
        case {"ca": str(ca_pem), "root": str(root_text), "devices": str(devices)}:
            try:
                root = base64.b64decode(root_text, validate=True)
                ca = x509.load_pem_x509_certificate(ca_pem.encode())
                token.check_fleet(ca.public_bytes(serialization.Encoding.DER), root)
                TrustState.initial(root)
            except (binascii.Error, ValueError) as error:
                raise EnrolmentError("the server's CA or root is malformed") from error
            except TrustError as error:
                raise EnrolmentError(str(error)) from error
            if not devices.startswith("https://"):
                raise EnrolmentError(f"expected an https:// address for devices, got {devices!r}")
            exact = ca.public_bytes(serialization.Encoding.PEM).decode()  # and nothing besides
            return exact, root, devices.rstrip("/")
    raise EnrolmentError("expected ca, root and devices in the server's answer")


def _identity(answer: Mapping[str, Any], tenant: str, devices: str, wish: Wish) -> Identity:
    match answer:
        case {
            "device": str(device),
            "tenant": str(found),
            "certificate": str(),
            "mqtt": {"host": str(host), "port": int(port)},
        }:
            if found != tenant:
                raise EnrolmentError(f"expected tenant {tenant}, got {found}")
            url = answer.get("devices") or devices
            if not isinstance(url, str) or not url.startswith("https://"):
                raise EnrolmentError(f"expected an https:// address for devices, got {url!r}")
            return Identity(
                device=device,
                tenant=tenant,
                mqtt_host=host,
                mqtt_port=port,
                devices_url=url.rstrip("/"),
                profiles=wish.profiles,
                tags=dict(wish.tags),
            )
    raise EnrolmentError("expected device, tenant, certificate and mqtt in the server's answer")


def _csr(key: ec.EllipticCurvePrivateKey, device: str, tenant: str) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant),
                x509.NameAttribute(NameOID.COMMON_NAME, device),
            ]
        )
    )
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _check_certificate(
    text: str, key: ec.EllipticCurvePrivateKey, ca_pem: str, device: str, tenant: str
) -> x509.Certificate:
    """Return the certificate if it is for this key and device, by the fleet's CA."""
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise EnrolmentError("the certificate is malformed, or not from the fleet's CA") from error
    if certificate.public_key() != key.public_key():
        raise EnrolmentError("the certificate is for another key")
    for oid, expected in ((NameOID.COMMON_NAME, device), (NameOID.ORGANIZATION_NAME, tenant)):
        found = [part.value for part in certificate.subject.get_attributes_for_oid(oid)]
        if found != [expected]:
            raise EnrolmentError(f"the certificate is for {found}, expected {expected!r}")
    return certificate


def _pem(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def _write(folder: Path, identity: Identity, pem: bytes, ca: bytes, root: bytes) -> None:
    """Make the folder DIR/identity appear, whole."""
    made = folder / f".{FOLDER}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        write_file(made / PEM, pem, private=True)
        write_file(made / CA, ca)
        write_file(made / ROOT, root)
        write_file(made / FILE, identity.to_bytes())
        os.replace(made, folder / FOLDER)
        sync_folder(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror or error}") from error
