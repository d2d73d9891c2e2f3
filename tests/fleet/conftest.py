"""A fleet server per test, on SQLite and on PostgreSQL, copied from one that was made once."""

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from edgec_fleet import audit, identity
from edgec_fleet.api.app import devices_app, operators_app
from edgec_fleet.db.schema import ROLES, Tenant
from edgec_fleet.initialise import initialise
from edgec_fleet.registry import trust_state
from edgec_fleet.server import Server
from edgec_fleet.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))  # so that tests find the modules beside them

from fleet_bundles import Bundles

POSTGRES = os.environ.get(
    "EDGEC_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres?connect_timeout=20"
)
PASSWORD = "correct horse battery"


def _postgres(statement: str) -> None:
    """Run `statement`; again if a connection to the template has not quite ended."""
    for tries_left in reversed(range(10)):
        with closing(psycopg.connect(POSTGRES, autocommit=True)) as connection:
            try:
                connection.execute(statement)  # type: ignore[call-overload]
                return
            except psycopg.errors.ObjectInUse:  # after five seconds of PostgreSQL's own patience
                if not tries_left:
                    raise


def _beside(name: str) -> str:
    """Return the URL of the database `name` on the tests' PostgreSQL."""
    base, _, query = POSTGRES.partition("?")
    return base.rpartition("/")[0] + "/" + name + (f"?{query}" if query else "")


@dataclass(frozen=True)
class Template:
    """An initialised fleet server that nobody has open, with an API token for each role."""

    settings: Settings
    database: str | None  # its name on PostgreSQL
    tokens: dict[str, str]


def _initialised(settings: Settings, database: str | None) -> Template:
    initialise(settings, password=PASSWORD)
    with closing(Server.open(settings)) as server, server.db.write() as session:
        tokens = {role: _token(session, role, role) for role in ROLES}
    return Template(settings, database, tokens)


def _token(session: Session, name: str, role: str, tenant: str = "default") -> str:
    """Make a user, named after its role, and return an API token of it."""
    user, _ = identity.create_user(session, tenant, f"the-{name}", role, PASSWORD, audit.SYSTEM)
    return identity.create_api_token(session, user, "test", None, None, audit.SYSTEM)[0]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return _initialised(Settings(dir=tmp_path_factory.mktemp("sqlite") / "fleet"), None)


@pytest.fixture(scope="session")
def postgresql_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    name = f"edgec_test_{uuid.uuid4().hex}"
    try:
        _postgres(f"CREATE DATABASE {name}")
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL for tests: {str(error).splitlines()[0]}")
    try:
        folder = tmp_path_factory.mktemp("postgresql") / "fleet"
        yield _initialised(Settings(dir=folder, database=_beside(name)), name)
    finally:
        _postgres(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def template(request: pytest.FixtureRequest) -> Any:
    """The server to copy, on each database; a test may choose one by indirect parameters."""
    return request.getfixturevalue(f"{request.param}_template")


@pytest.fixture
def settings(template: Template, tmp_path: Path) -> Iterator[Settings]:
    """A fleet server of the test's own."""
    folder = tmp_path / "fleet"
    shutil.copytree(template.settings.dir, folder)
    if template.database is None:
        yield replace(template.settings, dir=folder)
        return
    name = f"edgec_test_{uuid.uuid4().hex}"
    _postgres(f"CREATE DATABASE {name} TEMPLATE {template.database}")
    try:
        own = replace(template.settings, dir=folder, database=_beside(name))
        own.save()
        yield own
    finally:
        _postgres(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    with closing(Server.open(settings)) as opened:
        yield opened


@pytest.fixture
def operators(server: Server) -> FlaskClient:
    """A client of the operators' listener that nobody is logged in at."""
    return operators_app(server).test_client()


class People:
    """Users with API tokens; `headers("viewer")` is how one calls."""

    def __init__(self, server: Server, tokens: dict[str, str]) -> None:
        self.server = server
        self.tokens = tokens

    def headers(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role]}"}

    def new(self, role: str, tenant: str = "default") -> dict[str, str]:
        """Return the headers of one more user."""
        with self.server.db.write() as session:
            token = _token(session, uuid.uuid4().hex[:8], role, tenant)
        return {"Authorization": f"Bearer {token}"}

    def other_tenant(self, name: str = "other") -> str:
        self.server.keystore(name).create()
        with self.server.db.write() as session:
            session.add(Tenant(id=name, title=name))
            session.flush()
            trust_state.establish(self.server, session, name)
        return name


@pytest.fixture
def people(server: Server, template: Template) -> People:
    return People(server, template.tokens)


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    folder = tmp_path / "bundles"
    folder.mkdir()
    return Bundles(folder)


@dataclass
class FakeTls:
    """Stands for a TLS connection with this client certificate."""

    certificate: bytes | None = None

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        return self.certificate


class DeviceKey:
    """A device's key, its signing requests, and calls with its certificate."""

    def __init__(self, server: Server, curve: ec.EllipticCurve | None = None) -> None:
        self.client = devices_app(server).test_client()
        self.key = ec.generate_private_key(curve or ec.SECP256R1())
        self.tls = FakeTls()

    def csr(self) -> str:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name)
        signed = request.sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    def call(self, method: str, path: str, **options: Any) -> Any:
        environ = {"gunicorn.socket": self.tls}
        return self.client.open(path, method=method, environ_overrides=environ, **options)

    def enrol(self, secret: str, **wish: Any) -> Any:
        answer = self.call("POST", "/v1/enrol", json={"secret": secret, "csr": self.csr(), **wish})
        if answer.status_code == 200:
            self.use(answer.json["certificate"])
        return answer

    def use(self, pem: str) -> None:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        self.tls.certificate = certificate.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def new_device(server: Server) -> Any:
    """Return a maker of device keys."""
    return lambda **options: DeviceKey(server, **options)


@pytest.fixture
def new_secret(server: Server) -> Any:
    """Return a maker of enrolment secrets."""
    from edgec_bundle.trust.tokens import EnrolmentToken
    from edgec_fleet.enrolment import create_token

    def make(tenant: str = "default", **options: Any) -> str:
        with server.db.write() as session:
            text, _ = create_token(server, session, tenant, audit.SYSTEM, **options)
        return EnrolmentToken.parse(text).secret

    return make
