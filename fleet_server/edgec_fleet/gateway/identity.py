"""The gateway's own certificate: the one client that may read and write for the server."""

import ssl
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgec_fleet.broker.choice import is_child
from edgec_fleet.broker.policy import GATEWAY
from edgec_fleet.db.schema import utcnow
from edgec_fleet.pki import Authority, write_private, write_public
from edgec_fleet.server import Server

DAYS = 397
ORGANIZATION = "edgec"


def tls_context(server: Server) -> ssl.SSLContext:
    """Return the context to connect to the broker with; makes the certificate when needed.

    Raises SettingsError: the fleet CA is not usable.
    """
    certificate, key = ensure_files(server.authority, server.settings.dir / "gateway")
    context = ssl.create_default_context(cafile=str(server.authority.path))
    context.load_cert_chain(certificate, key)
    # Our own broker is reached at whatever address it listens; that the fleet CA made its
    # certificate for a server is what counts.
    context.check_hostname = not is_child(server.settings)
    return context


def ensure_files(authority: Authority, folder: Path) -> tuple[Path, Path]:
    """Return the paths of certificate and key, made anew in the last third of their life."""
    certificate, key = folder / "gateway.crt", folder / "gateway.key"
    if not _still_good(authority, certificate, key):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = ec.generate_private_key(ec.SECP256R1())
        issued = authority.issue_device(
            private.public_key(), tenant=ORGANIZATION, device=GATEWAY, days=DAYS
        )
        write_private(
            key,
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
        write_public(certificate, issued.pem.encode())
    return certificate, key


def _still_good(authority: Authority, certificate: Path, key: Path) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        found.verify_directly_issued_by(authority.certificate)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    left = found.not_valid_after_utc - utcnow()
    return private.public_key() == found.public_key() and left > timedelta(days=DAYS) / 3
