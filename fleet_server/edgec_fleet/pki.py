"""The fleet's certificate authority: device and server certificates, renewal, revocation.

EC P-256 throughout. A device makes its own key and sends a signing request; of that request
only the public key is used, names come from the server. Which serials are revoked is a matter
of the database (`certificates`); `crl` writes it down for a broker.
"""

import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_bundle.digest import sha256_hex
from edgec_fleet.db.schema import Certificate, utcnow
from edgec_fleet.errors import RefusedError, SettingsError

CA_YEARS = 20
SERVER_DAYS = 397
CRL_DAYS = 30
BACKDATE = timedelta(minutes=5)  # a device's clock may be a little behind ours
MAXIMUM_CSR_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was just issued, and what to keep about it."""

    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def serial(self) -> str:
        """The serial number, lowercase hex."""
        return serial_hex(self.certificate)


class Authority:
    """The fleet CA, held in memory with its private key."""

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, folder: Path
    ) -> None:
        self.certificate = certificate
        self._key = key
        self.path = folder / "ca.crt"

    @classmethod
    def create(cls, folder: Path, name: str = "edgec fleet") -> "Authority":
        """Make a CA and write ca.key (0600) and ca.crt into `folder`. Raises SettingsError."""
        if (folder / "ca.key").exists():
            raise SettingsError(f"{folder / 'ca.key'} exists already")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA")])
        now = utcnow()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + timedelta(days=365 * CA_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certify=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(folder / "ca.key", _key_pem(key))
        write_public(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
        return cls(certificate, key, folder)

    @classmethod
    def load(cls, folder: Path) -> "Authority":
        """Read the CA that `create` wrote. Raises SettingsError."""
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SettingsError(f"cannot read the fleet CA in {folder}: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SettingsError(f"expected an EC key in {folder / 'ca.key'}")
        return cls(certificate, key, folder)

    @property
    def pem(self) -> str:
        """The CA's certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def sha256(self) -> str:
        """sha256 of the CA certificate's DER, as enrolment tokens carry it."""
        return sha256_hex(self.certificate.public_bytes(serialization.Encoding.DER))

    def issue_device(
        self, public_key: ec.EllipticCurvePublicKey, *, tenant: str, device: str, days: int
    ) -> Issued:
        """Return a client certificate: CN = device id, O = tenant."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant),
                x509.NameAttribute(NameOID.COMMON_NAME, device),
            ]
        )
        return self._issue(subject, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, days, ())

    def issue_server(self, public_key: ec.EllipticCurvePublicKey, hosts: Sequence[str]) -> Issued:
        """Return a server certificate for `hosts` (names and addresses). Raises SettingsError."""
        if not hosts:
            raise SettingsError("a server certificate needs at least one host name or address")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
        return self._issue(subject, public_key, ExtendedKeyUsageOID.SERVER_AUTH, SERVER_DAYS, hosts)

    def crl(self, revoked: Iterable[tuple[str, datetime]]) -> bytes:
        """Return the signed revocation list, PEM, of (serial in hex, revoked at)."""
        now = utcnow()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATE)
            .next_update(now + timedelta(days=CRL_DAYS))
        )
        for serial, at in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(serial, 16))
                .revocation_date(at)
                .build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        purpose: x509.ObjectIdentifier,
        days: int,
        hosts: Sequence[str],
    ) -> Issued:
        now = utcnow()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certify=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return Issued(builder.sign(self._key, hashes.SHA256()))


def read_csr(pem: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a signing request, proven to be held by its sender.

    Raises RefusedError: not a request, not EC P-256, or not signed by its own key.
    """
    if len(pem) > MAXIMUM_CSR_BYTES:
        raise RefusedError(f"expected a signing request of at most {MAXIMUM_CSR_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise RefusedError("expected a PEM certificate signing request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise RefusedError("expected a signing request for an EC P-256 key")
    if not valid:
        raise RefusedError("the signing request is not signed by its own key")
    return key


def spki_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """Return the sha256 of the public key's SubjectPublicKeyInfo."""
    return sha256_hex(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def serial_hex(certificate: x509.Certificate) -> str:
    """Return the certificate's serial number as lowercase hex without leading zeros."""
    return f"{certificate.serial_number:x}"


def remember(session: Session, issued: Issued, *, tenant: str, kind: str, subject: str) -> None:
    """Write the issued certificate into the table that revocation and the CRL read."""
    key = issued.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 (read_csr took no other)
    session.add(
        Certificate(
            serial=issued.serial,
            tenant=tenant,
            kind=kind,
            subject=subject,
            spki_sha256=spki_sha256(key),
            not_before=issued.certificate.not_valid_before_utc,
            not_after=issued.certificate.not_valid_after_utc,
        )
    )


def revoke(session: Session, subject: str, reason: str, *, keep: str | None = None) -> int:
    """Revoke every live device certificate of `subject` but serial `keep`; return how many."""
    rows = session.scalars(
        select(Certificate).where(
            Certificate.kind == "device",
            Certificate.subject == subject,
            Certificate.revoked_at.is_(None),
            Certificate.serial != (keep or ""),
        )
    ).all()
    for row in rows:
        row.revoked_at, row.revoked_reason = utcnow(), reason
    return len(rows)


def write_crl(session: Session, authority: Authority, path: Path) -> None:
    """Write the revocation list of all unexpired revoked certificates to `path`, atomically."""
    rows = session.execute(
        select(Certificate.serial, Certificate.revoked_at).where(
            Certificate.revoked_at.is_not(None), Certificate.not_after > utcnow()
        )
    ).all()
    write_public(path, authority.crl((row.serial, row.revoked_at) for row in rows))


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where a TLS listener finds its certificate, its key and the CA of its clients.

    Certificate and key are one file, so that they are always seen together.
    """

    certificate: Path
    key: Path
    ca: Path


def ensure_server_files(authority: Authority, folder: Path, hosts: Sequence[str]) -> ServerFiles:
    """Return the server's TLS files in `folder`, issued anew when needed.

    Anew: when they are missing, name other hosts, come from another CA, or have less than a
    third of their life left.
    """
    path = folder / "server.pem"
    files = ServerFiles(path, path, authority.path)
    if not _still_good(authority, files, hosts):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        issued = authority.issue_server(key.public_key(), hosts)
        write_private(path, _key_pem(key) + issued.pem.encode())
    return files


def _still_good(authority: Authority, files: ServerFiles, hosts: Sequence[str]) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        certificate.verify_directly_issued_by(authority.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    left = certificate.not_valid_after_utc - utcnow()
    return (
        isinstance(key, ec.EllipticCurvePrivateKey)
        and key.public_key() == certificate.public_key()
        and list(names) == [_general_name(host) for host in hosts]
        and left > timedelta(days=SERVER_DAYS) / 3
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise SettingsError(f"expected a host name in ASCII, got {host!r}") from error


def _usage(*, certify: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certify,
        key_cert_sign=certify,
        crl_sign=certify,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, readable by its owner only from its first byte on."""
    _replace(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, readable by everybody."""
    _replace(path, data, 0o644)


def _replace(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.replace(temporary, path)
