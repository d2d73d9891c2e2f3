"""Which trust keys this server holds, and the signers behind them.

A role's key is a file `keys/<role>.pem` (made by `edgec-fleet init` so that one machine works at
once) or a URI under `signers` in config.toml. A role without either signs elsewhere; nothing but
`director`, `snapshot` and `timestamp` has to be here.
"""

from collections.abc import Container, Mapping
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, Signer

from edgec_bundle.errors import TrustError
from edgec_bundle.trust.keys import generate_key, load_public, load_signer, public_path
from edgec_bundle.trust.root import ROLES
from edgec_fleet.errors import MissingKeyError, SettingsError
from edgec_fleet.settings import Settings

ONLINE = ("snapshot", "timestamp", "director")  # the roles whose keys must be at hand
AUTHORITATIVE = ("root", "targets", "acceptance")  # those whose keys are better elsewhere


class Keystore:
    """The keys of one tenant's trust roles.

    Args:
        folder: of the key files.
        uris: role -> URI of a key that is not a file there.
    """

    def __init__(self, folder: Path, uris: Mapping[str, str]) -> None:
        self.folder = folder
        self._uris = dict(uris)
        self._signers: dict[str, Signer] = {}

    @classmethod
    def of(cls, settings: Settings, tenant: str) -> "Keystore":
        """Return the keystore of `tenant`; only the server's own tenant uses URIs."""
        if tenant == settings.tenant:
            return cls(settings.keys_dir, settings.signers)
        return cls(settings.keys_dir / "tenants" / tenant, {})

    def create(self, scheme: str = "ed25519", leave_out: Container[str] = ()) -> None:
        """Make a key file for every role but `leave_out` that has no URI. Raises SettingsError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in ROLES:
            if role not in self._uris and role not in leave_out:
                try:
                    generate_key(self.path(role), scheme)
                except (OSError, ValueError) as error:
                    raise SettingsError(f"cannot make the {role} key: {error}") from error

    def path(self, role: str) -> Path:
        """Return where the key file of `role` lies, if it is a file."""
        return self.folder / f"{role}.pem"

    def uri(self, role: str) -> str | None:
        """Return the URI that signs for `role` here, or None if its key is elsewhere."""
        if role in self._uris:
            return self._uris[role]
        path = self.path(role)
        return f"{CryptoSigner.SCHEME}:{path.absolute()}" if path.exists() else None

    def holds(self, role: str) -> bool:
        """Return whether this server can sign for `role`."""
        return self.uri(role) is not None

    def holds_development_keys(self) -> bool:
        """Return whether a key that belongs elsewhere lies here in a plain file."""
        return any(role not in self._uris and self.path(role).exists() for role in AUTHORITATIVE)

    def public(self, role: str) -> Key:
        """Return the public key of `role`. Raises MissingKeyError, SettingsError."""
        uri = self.uri(role)
        if uri is None:
            raise MissingKeyError(f"this server does not hold the {role} key", role=role)
        location, _, public = uri.partition("#")
        path = Path(location.removeprefix(f"{CryptoSigner.SCHEME}:"))
        try:
            return load_public(Path(public) if public else public_path(path))
        except TrustError as error:
            raise SettingsError(str(error)) from error

    def signer(self, role: str) -> Signer:
        """Return the signer for `role`.

        Raises:
            MissingKeyError: the key is not at this server.
            SettingsError: it should be, but cannot be loaded.
        """
        uri = self.uri(role)
        if uri is None:
            raise MissingKeyError(f"this server does not hold the {role} key", role=role)
        if role not in self._signers:
            try:
                self._signers[role] = load_signer(uri)
            except TrustError as error:
                raise SettingsError(f"the {role} key cannot be used: {error}") from error
        return self._signers[role]
