"""The other side of an agent, whole and small: key holders, server, broker, blobs.

Everything is the real thing behind the real interface: signed metadata, the digits models, TLS,
Mosquitto. A test changes the world and lets the real agent meet it.
"""

import getpass
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from free_ports import free_port
from paho.mqtt.enums import CallbackAPIVersion

from edgec_bundle.delta import make_patch
from edgec_bundle.delta.patch import make_patch_as
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import MessageError
from edgec_bundle.manifest import FileEntry, Golden, Manifest, Runtime, TensorSpec, target_path
from edgec_bundle.messages import (
    ALL_UP,
    KINDS,
    BlobRef,
    Desired,
    PatchSource,
    Reply,
    ReplyError,
    Request,
    Source,
    Topics,
    parse_topic,
    rfc3339,
)
from edgec_bundle.trust import (
    ROLES,
    AcceptanceSet,
    AssignedTarget,
    Assignment,
    EnrolmentToken,
    ImageRepository,
    RoleKeys,
    generate_signer,
    new_root,
    new_secret,
    sign,
    sign_assignment,
)
from edgec_runtime.golden import record_golden
from edgec_runtime.pipeline import load_pipeline

DIGITS = Path(__file__).parents[2] / "models" / "digits"
TENANT, DEVICE = "default", "camera-1"
PROFILE = "generic-x86_64"
YEAR = timedelta(days=365)
BLOCK = 16 * 1024
LONG_S = 120.0  # what surely happened by then, on a busy machine too
IMAGE = TensorSpec("image", "uint8", (-1, 32, 32, 1), "image")
PROBABILITIES = TensorSpec("probabilities", "float32", (-1, 10), "probabilities")


@cache
def digits():
    """Return (images [N, 32, 32, 1] uint8, labels [N]) that no model was trained on."""
    with np.load(DIGITS / "evaluation.npz") as data:
        return data["inputs"], data["labels"]


@cache
def bundle(file, version, release, model="digits", **fields):
    """Return (manifest, {digest: bytes}) of a real release made from models/digits/FILE."""
    blobs = {
        "model": (DIGITS / file).read_bytes(),
        "labels": (DIGITS / "labels.txt").read_bytes(),
    }
    manifest = Manifest(
        model=model,
        version=version,
        release=release,
        profile=fields.pop("profile", PROFILE),
        format="onnx",
        runtime=Runtime("onnxruntime", "1.0", "cpu"),
        files=(),
        inputs=(IMAGE,),
        outputs=(PROBABILITIES,),
        preprocessing=(
            {"op": "scale", "mean": 127.5, "std": 127.5},
            {"op": "layout", "from": "NHWC", "to": "NCHW"},
        ),
        postprocessing=({"op": "softmax"},),
        **fields,
    )
    golden_bytes, golden = _golden(file, replace(manifest, files=_entries(blobs)), blobs)
    blobs["golden"] = golden_bytes
    manifest = replace(manifest, golden=golden, files=_entries(blobs))
    return manifest, {sha256_hex(data): data for data in (*blobs.values(), manifest.to_bytes())}


def _entries(blobs):
    return tuple(
        FileEntry(role, f"{role}.bin", len(data), sha256_hex(data)) for role, data in blobs.items()
    )


@cache
def _golden_of(file):
    blobs = {"model": (DIGITS / file).read_bytes(), "labels": (DIGITS / "labels.txt").read_bytes()}
    manifest = Manifest(
        model="digits",
        version="0.0.1",
        release=1,
        profile=PROFILE,
        format="onnx",
        runtime=Runtime("onnxruntime", "1.0", "cpu"),
        files=_entries(blobs),
        inputs=(IMAGE,),
        outputs=(PROBABILITIES,),
        preprocessing=(
            {"op": "scale", "mean": 127.5, "std": 127.5},
            {"op": "layout", "from": "NHWC", "to": "NCHW"},
        ),
        postprocessing=({"op": "softmax"},),
    )
    pipeline = load_pipeline(manifest, blobs.__getitem__)
    try:
        return record_golden(pipeline, {"image": digits()[0][:64]}, 4, 1e-3)
    finally:
        pipeline.close()


def _golden(file, manifest, blobs):
    data, golden = _golden_of(file)
    return data, Golden(golden.samples, golden.tolerance, golden.metric)


V1 = ("1.0.0.onnx", "1.0.0", 1)
V2 = ("1.1.0.onnx", "1.1.0", 2)
BAD = ("1.2.0-bad.onnx", "1.2.0", 3)


@cache
def patch(old, new):
    """Return the bsdiff4 patch between two files of models/digits."""
    made = make_patch((DIGITS / old).read_bytes(), (DIGITS / new).read_bytes(), max_bytes=2**30)
    if made is None:  # unrelated weights: any real patch will do for the way it takes
        made = make_patch_as(
            "bsdiff4", (DIGITS / old).read_bytes(), (DIGITS / new).read_bytes(), 2**30
        )
    return made.data


class Keys:
    """Signers of every role; made once per test session."""

    def __init__(self):
        self.now = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        self.signers = {role: generate_signer() for role in ROLES}
        roles = {role: RoleKeys((one.public_key,)) for role, one in self.signers.items()}
        self.root = sign(new_root(roles, expires=self.now + 10 * YEAR), self.signers["root"])


class Fleet:
    """What the server has released and says; `desired` makes the message for the device."""

    def __init__(self, keys):
        self.keys = keys
        self.blobs = {}
        self.counter = 0
        self.repository = ImageRepository.create(keys.root)
        self.patches = {}  # digest of the wanted file -> PatchSource
        self.acceptance({})

    @property
    def root(self):
        return self.keys.root

    def acceptance(self, sets):
        draft = self.repository.next_acceptance(sets, expires=self.keys.now + YEAR)
        payload = sign(draft, self.keys.signers["acceptance"])
        self.repository = self.repository.accept_acceptance(payload, now=self.keys.now)

    def accept_digits(self, minimum=0.9, model="digits"):
        """Publish the real acceptance set of the digits."""
        data = (DIGITS / "acceptance.npz").read_bytes()
        self.blobs[sha256_hex(data)] = data
        self.acceptance({model: AcceptanceSet(sha256_hex(data), len(data), minimum)})

    def release(self, file, version, number, **fields):
        """Sign and publish a release; return its manifest."""
        manifest, blobs = bundle(file, version, number, **fields)
        return self.publish(manifest, blobs)

    def publish(self, manifest, blobs):
        self.blobs |= blobs
        draft = self.repository.next_targets(
            expires=self.keys.now + YEAR, add=[manifest.to_bytes()]
        )
        payload = sign(draft, self.keys.signers["targets"])
        self.repository = self.repository.accept_targets(payload, now=self.keys.now)
        return manifest

    def allow_rollback(self, manifest):
        draft = self.repository.next_targets(
            expires=self.keys.now + YEAR, allow_rollback=[manifest.digest]
        )
        payload = sign(draft, self.keys.signers["targets"])
        self.repository = self.repository.accept_targets(payload, now=self.keys.now)

    def offer_patch(self, old_manifest, new_manifest, data, role="model"):
        """Let the next `desired` name a patch, right or wrong, between two releases."""
        old, new = old_manifest.entry(role).sha256, new_manifest.entry(role).sha256
        source = PatchSource(base=old, sha256=sha256_hex(data), bytes=len(data), format="bsdiff4")
        self.patches.setdefault(new, []).append(source)
        self.blobs[source.sha256] = data
        return source

    def assign(self, *manifests, device=DEVICE, counter=None):
        self.counter = counter if counter is not None else self.counter + 1
        assignment = Assignment(
            tenant=TENANT,
            device=device,
            counter=self.counter,
            issued=self.keys.now,
            expires=self.keys.now + YEAR,
            targets=tuple(
                AssignedTarget(target_path(one), one.digest, len(one.to_bytes()))
                for one in manifests
            ),
        )
        return sign_assignment(assignment, self.keys.signers["director"])

    def metadata_set(self):
        self.repository = self.repository.publish(
            snapshot=self.keys.signers["snapshot"],
            timestamp=self.keys.signers["timestamp"],
            now=self.keys.now,
        )
        return self.repository.metadata_set()

    def desired(self, *manifests, rollout="1", http=None, director=None, **more):
        """Return the message that assigns `manifests`, as the server would send it."""
        metadata = self.metadata_set()
        self.blobs[sha256_hex(metadata)] = metadata
        sources = []
        for one in manifests:
            payload = one.to_bytes()
            sources.append(
                Source(sha256=one.digest, bytes=len(payload), model=one.model, role="manifest")
            )
            for entry in one.shipped():
                sources.append(
                    Source(
                        sha256=entry.sha256,
                        bytes=entry.bytes,
                        model=one.model,
                        role=entry.role,
                        patches=tuple(self.patches.get(entry.sha256, ())),
                    )
                )
        return Desired(
            at=rfc3339(datetime.now(UTC)),
            director=director or self.assign(*manifests, **more),
            metadata=BlobRef(sha256=sha256_hex(metadata), bytes=len(metadata)),
            sources=tuple(sources),
            block_bytes=BLOCK,
            http=http,
            rollouts={one.model: rollout for one in manifests} if rollout else {},
        ).to_bytes()

    def write_pack(self, folder, desired):
        """Write an offline pack that holds all of this world's blobs."""
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "desired.json").write_bytes(desired)
        for digest, data in self.blobs.items():
            (folder / "blobs" / digest).write_bytes(data)
        return folder


class Certificates:
    """A certificate authority, the server's certificate, and as many devices as are asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self._issue("edgec test CA", self.key.public_key(), None, ca=True)
        (folder / "ca.pem").write_bytes(self.ca.public_bytes(serialization.Encoding.PEM))
        self.write("server", "server", dns=True)

    @property
    def ca_pem(self):
        return self.ca.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def ca_der(self):
        return self.ca.public_bytes(serialization.Encoding.DER)

    def write(self, stem, name, tenant=TENANT, dns=False):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(name, key.public_key(), tenant, dns=dns)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (self.folder / f"{stem}.key").write_bytes(pem)
        payload = certificate.public_bytes(serialization.Encoding.PEM)
        (self.folder / f"{stem}.pem").write_bytes(payload)
        return pem + payload

    def sign_csr(self, text, name, tenant=TENANT, days=365):
        request = x509.load_pem_x509_csr(text.encode())
        return self._issue(name, request.public_key(), tenant, days=days).public_bytes(
            serialization.Encoding.PEM
        )

    def _issue(self, name, public, tenant, *, ca=False, dns=False, days=365):
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if tenant is not None:
            subject.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant))
        issuer = [x509.NameAttribute(NameOID.COMMON_NAME, "edgec test CA")]
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(x509.Name(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if dns:
            names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def server_context(self, require=True):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED if require else ssl.CERT_OPTIONAL
        return context


def write_identity(folder, certificates, root, *, mqtt_port=1, devices_url="https://127.0.0.1:1"):
    """Make `folder` an enrolled device, as `edgec-agent enroll` leaves it."""
    identity = folder / "identity"
    identity.mkdir(parents=True)
    (identity / "device.pem").write_bytes(certificates.write("device", DEVICE))
    (identity / "ca.pem").write_text(certificates.ca_pem)
    (identity / "root.json").write_bytes(root)
    (identity / "identity.json").write_text(
        json.dumps(
            {
                "device": DEVICE,
                "tenant": TENANT,
                "mqtt_host": "127.0.0.1",
                "mqtt_port": mqtt_port,
                "devices_url": devices_url,
                "profiles": [PROFILE],
                "tags": {"site": "lab"},
            }
        )
    )
    return folder


class BlobServer:
    """HTTPS for devices: enrolment, renewal, and blobs with Range, with faults on demand."""

    def __init__(self, certificates, fleet):
        self.fleet = fleet
        self.certificates = certificates
        self.secrets = {}  # one-time secret -> used
        self.requests = []  # (digest, Range header)
        self.fault = None  # callable(handler, data) -> data | None (None: it answered itself)
        self.devices_host = None
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                world._get(self)

            def do_POST(self):
                world._post(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        context = certificates.server_context(require=False)
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"
        self.mqtt_port = 1
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def token(self):
        secret = new_secret()
        self.secrets[secret] = False
        return str(
            EnrolmentToken(
                secret, TENANT, sha256_hex(self.certificates.ca_der), sha256_hex(self.fleet.root)
            )
        )

    def enrolment(self):
        """Return what GET /v1/enrolment says."""
        return {
            "ca": self.certificates.ca_pem,
            "root": b64encode(self.fleet.root).decode(),
            "devices": self.url,
        }

    def _get(self, handler):
        digest = handler.path.removeprefix("/v1/blobs/")
        wanted = handler.headers.get("Range")
        self.requests.append((digest, wanted))
        if not handler.connection.getpeercert():
            self.answer(handler, 403, b"{}")
            return
        data = self.fleet.blobs.get(digest)
        if self.fault is not None:
            data = self.fault(handler, data)
            if data is None:
                return
        if data is None:
            self.answer(handler, 404, b'{"error": "no such blob"}')
            return
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if wanted and handler.headers.get("If-Range") in (None, f'"{digest}"'):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            self.answer(handler, 206, part, headers)
        else:
            self.answer(handler, 200, data, headers)

    def _post(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if handler.path == "/v1/renew":
            name = _common_name(handler.connection.getpeercert())
            pem = self.certificates.sign_csr(body["csr"], name)
            self.answer(handler, 200, json.dumps({"certificate": pem.decode()}).encode())
            return
        if self.secrets.get(body["secret"]) is not False:
            self.answer(handler, 403, b'{"error": "this token was used before"}')
            return
        self.secrets[body["secret"]] = True
        device = body["device"] or DEVICE
        pem = self.certificates.sign_csr(body["csr"], device)
        answer = {
            "device": device,
            "tenant": TENANT,
            "certificate": pem.decode(),
            "mqtt": {"host": "127.0.0.1", "port": self.mqtt_port},
            "devices": self.url,
        }
        self.answer(handler, 200, json.dumps(answer).encode())

    @staticmethod
    def answer(handler, status, body, headers=()):
        handler.send_response(status)
        for name, value in dict(headers).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def _common_name(certificate):
    return next(value for ((name, value),) in certificate["subject"] if name == "commonName")


@contextmanager
def plain_server(answers):
    """Serve `answers` ({path: object}) as JSON over plain HTTP; yield the URL.

    A function among them is given the handler instead, and answers itself.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            found = answers.get(self.path)
            if callable(found):
                found(self)
                return
            body = found if isinstance(found, bytes) else json.dumps(found).encode()
            BlobServer.answer(self, 404 if found is None else 200, body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/sbin")


class Broker:
    """A real Mosquitto with client certificates and the ACL of the design."""

    def __init__(self, folder, certificates):
        self.port = free_port()
        self.folder = folder
        pki = certificates.folder
        (folder / "acl").write_text(
            "user server\ntopic readwrite edgec/v1/#\n"
            f"pattern read edgec/v1/{TENANT}/dev/%u/down/#\n"
            f"pattern write edgec/v1/{TENANT}/dev/%u/up/#\n"
            f"pattern read edgec/v1/{TENANT}/blob/#\n"
        )
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\n"
            f"cafile {pki}/ca.pem\ncertfile {pki}/server.pem\nkeyfile {pki}/server.key\n"
            "require_certificate true\nuse_identity_as_username true\n"
            f"acl_file {folder}/acl\nallow_anonymous false\n"
            "persistence false\nmax_queued_messages 10000\n" + _user_line()
        )
        self.process = None
        self.start()

    def start(self):
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(
                [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        deadline = time.monotonic() + LONG_S
        while time.monotonic() < deadline:
            with socket.socket() as sock:
                sock.settimeout(5)
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "mosquitto.log").read_text())

    def stop(self):
        self.process.kill()
        self.process.wait()


def _user_line():
    return f"user {getpass.getuser()}\n"


class Gateway:
    """The server's end of the wire: answers block requests, keeps every message it gets."""

    def __init__(self, broker, certificates, fleet):
        self.fleet = fleet
        self.messages = []  # (device, kind, message)
        self.lose = lambda digest, block: False
        self.corrupt = lambda digest, block, data: data
        self.silent = False
        self.refuse = None
        self.sent_blocks = 0
        self.block_bytes = BLOCK
        pki = certificates.folder
        context = ssl.create_default_context(cafile=pki / "ca.pem")
        context.load_cert_chain(pki / "server.pem", pki / "server.key")
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="server", protocol=mqtt.MQTTv311
        )
        self.client.tls_set_context(context)
        self.is_listening = False  # subscribed on the connection that there is
        self.client.on_connect = lambda c, *_: c.subscribe(ALL_UP, qos=1)
        self.client.on_subscribe = lambda *_: setattr(self, "is_listening", True)
        self.client.on_disconnect = lambda *_: setattr(self, "is_listening", False)
        self.client.on_message = self._arrived
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        until(lambda: self.is_listening, what="the gateway")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def send(self, desired, device=DEVICE):
        """Publish an assignment, retained."""
        topic = Topics(TENANT, device).down("desired")
        self.client.publish(topic, desired, qos=1, retain=True)

    def of(self, kind):
        return [message for _, found, message in list(self.messages) if found == kind]

    def events(self, model="digits"):
        return [event for event in self.of("event") if event.model == model]

    def _arrived(self, _client, _user, message):
        topic = parse_topic(message.topic)
        try:
            found = KINDS[topic.kind].from_bytes(message.payload)
        except MessageError as error:
            self.messages.append((topic.device, "broken", str(error)))
            return
        self.messages.append((topic.device, topic.kind, found))
        if isinstance(found, Request):
            self._serve(topic, found)

    def _serve(self, topic, request):
        if self.silent:
            return
        data = self.fleet.blobs.get(request.digest)
        topics = Topics(topic.tenant, topic.device)
        if data is None or self.refuse:
            error = ReplyError(code=self.refuse or "not_assigned", message="not for you")
            reply = Reply(at=rfc3339(datetime.now(UTC)), re=request.id, ok=False, error=error)
            self.client.publish(topics.down("reply"), reply.to_bytes(), qos=1)
            return
        for block in request.blocks():
            part = data[block * request.block_bytes : (block + 1) * request.block_bytes]
            if not self.lose(request.digest, block):
                self.sent_blocks += 1
                payload = self.corrupt(request.digest, block, part)
                self.client.publish(topics.blob(request.digest, block), payload, qos=0)


def until(condition, timeout_s=LONG_S, what="it"):
    """Return the first true value of `condition()`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout_s} s for {what}")
