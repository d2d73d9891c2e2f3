"""The manifest: what a bundle holds, what it needs, and how its model is fed and read.

A manifest is untrusted until its digest was found in signed metadata, and even then it is parsed
as if a stranger had written it. Each class below checks its own fields when it is built, so a
value of type `Manifest` is well-formed wherever it came from. What the fields mean together with
a device (is it for me, do I know these features) is decided by the runtime and the agent.

The reference of every field is docs/reference/bundle.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeAlias, TypeVar

import rfc8785

from edgec_bundle import strict_json
from edgec_bundle.digest import is_digest, sha256_hex
from edgec_bundle.errors import ManifestError
from edgec_bundle.semver import SemVer
from edgec_bundle.strict_json import JSON, MAX_INTEGER

SCHEMA = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 2**32 - 1  # what one member of a plain zip can hold
MAX_FILES = 32
MAX_TENSORS = 64
MAX_STEPS = 64
MAX_RANK = 8

MANIFEST_NAME = "manifest.json"
NEIGHBOURS = ("measurements.json", "report.html", "targets.json")  # beside a bundle, never pinned
ROLES = ("model", "reference", "labels", "golden", "report", "sbom", "provenance")
DEVICE_ROLES = ("model", "labels", "golden")
DTYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
    "bytes",
)

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,126}")
_RUNTIME_VERSION = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,3}")
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,128}")
_LINE = re.compile(r"[^\x00-\x1f\x7f]{0,256}")

Step: TypeAlias = Mapping[str, JSON]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One pinned file: found by `role`, stored under the relative `path`."""

    role: str
    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _match(self.role, NAME, "a file's role")
        _check_path(self.path)
        _integer(self.bytes, 0, MAX_FILE_BYTES, "a file's bytes")
        if not is_digest(self.sha256):
            raise _wrong("a file's sha256", "64 lowercase hexadecimal characters", self.sha256)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs the model: ``onnxruntime`` or ``litert``, at least `min_version`."""

    name: str
    min_version: str | None = None
    delegate: str | None = None

    def __post_init__(self) -> None:
        _match(self.name, NAME, "runtime.name")
        if self.min_version is not None:
            _match(self.min_version, _RUNTIME_VERSION, "runtime.min_version")
        if self.delegate is not None:
            _match(self.delegate, NAME, "runtime.delegate")


def is_tensor_name(name: str) -> bool:
    """Return whether a manifest can name a tensor so."""
    return _PRINTABLE.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the public interface; a -1 in `shape` stands for any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    meaning: str = ""

    def __post_init__(self) -> None:
        _match(self.name, _PRINTABLE, "a tensor's name")
        if self.dtype not in DTYPES:
            raise _wrong("a tensor's dtype", f"one of {', '.join(DTYPES)}", self.dtype)
        object.__setattr__(self, "shape", _sequence(self.shape, MAX_RANK, "a tensor's shape"))
        for size in self.shape:
            _integer(size, -1, 2**31 - 1, "a tensor's size")
        _match(self.meaning, _LINE, "a tensor's meaning")


@dataclass(frozen=True, slots=True)
class Golden:
    """How the golden samples are judged: `metric` of each may be off by `tolerance` at most."""

    samples: int
    tolerance: float
    metric: str

    def __post_init__(self) -> None:
        _integer(self.samples, 1, 2**31 - 1, "golden.samples")
        _number(self.tolerance, 0, "golden.tolerance")
        _match(self.metric, NAME, "golden.metric")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device may at most spend on the model; None: not limited."""

    latency_ms_p95: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.latency_ms_p95 is not None:
            _number(self.latency_ms_p95, 0, "limits.latency_ms_p95")
        if self.memory_bytes is not None:
            _integer(self.memory_bytes, 0, MAX_INTEGER, "limits.memory_bytes")


@dataclass(frozen=True, slots=True)
class Requires:
    """What a device must have. It refuses `features` that it doesn't know; None: no demand."""

    arch: str | None = None
    memory_bytes: int | None = None
    accelerator: str | None = None
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for value, what in (
            (self.arch, "requires.arch"),
            (self.accelerator, "requires.accelerator"),
        ):
            if value is not None:
                _match(value, NAME, what)
        if self.memory_bytes is not None:
            _integer(self.memory_bytes, 0, MAX_INTEGER, "requires.memory_bytes")
        object.__setattr__(self, "features", _sequence(self.features, 256, "requires.features"))
        for feature in self.features:
            _match(feature, _PRINTABLE, "a required feature")
        _distinct(self.features, "requires.features")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of one model, compiled for one hardware profile."""

    schema: int = SCHEMA
    model: str
    version: str
    release: int  # grows with every release; devices refuse to go back
    profile: str
    format: str
    runtime: Runtime
    files: tuple[FileEntry, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: tuple[Step, ...] = ()
    postprocessing: tuple[Step, ...] = ()
    golden: Golden | None = None
    limits: Limits = field(default_factory=Limits)
    metrics: Mapping[str, JSON] = field(default_factory=dict)
    baseline: Mapping[str, JSON] = field(default_factory=dict)
    lineage: Mapping[str, JSON] = field(default_factory=dict)
    license: str | None = None
    requires: Requires = field(default_factory=Requires)

    def __post_init__(self) -> None:
        _integer(self.schema, SCHEMA, SCHEMA, "schema")
        _match(self.model, NAME, "model")
        SemVer.parse(self.version)
        _integer(self.release, 1, MAX_INTEGER, "release")
        _match(self.profile, NAME, "profile")
        _match(self.format, NAME, "format")
        if self.license is not None:
            _match(self.license, _LINE, "license")
        self._check_parts()
        self._check_files()

    def _check_parts(self) -> None:
        _instance(self.runtime, Runtime, "runtime")
        _instance(self.limits, Limits, "limits")
        _instance(self.requires, Requires, "requires")
        if self.golden is not None:
            _instance(self.golden, Golden, "golden")
        for name in ("inputs", "outputs"):
            tensors = _sequence(getattr(self, name), MAX_TENSORS, name)
            for tensor in tensors:
                _instance(tensor, TensorSpec, name)
            _distinct([tensor.name for tensor in tensors], name)
            object.__setattr__(self, name, tensors)
        for name in ("preprocessing", "postprocessing"):
            steps = _sequence(getattr(self, name), MAX_STEPS, name)
            object.__setattr__(self, name, tuple(_step(step, name) for step in steps))
        for name in ("metrics", "baseline", "lineage"):
            object.__setattr__(self, name, _json_object(getattr(self, name), name))

    def _check_files(self) -> None:
        files = _sequence(self.files, MAX_FILES, "files")
        for entry in files:
            _instance(entry, FileEntry, "files")
        _distinct([entry.role for entry in files], "the roles of files")
        paths = [entry.path.lower() for entry in files]  # some file systems ignore case
        _distinct(paths, "the paths of files")
        folders = {path[: at.start()] for path in paths for at in re.finditer("/", path)}
        if folders & {*paths}:
            raise ManifestError("files: expected no path that is also a folder of another")
        object.__setattr__(self, "files", files)

    def _check_complete(self) -> None:
        roles = {entry.role for entry in self.files}
        if "model" not in roles:
            raise ManifestError("files: expected a file with role model, got none")
        if ("golden" in roles) != (self.golden is not None):
            raise ManifestError("golden: expected a golden file and its tolerance, got only one")

    def to_bytes(self) -> bytes:
        """Return the form that is signed: canonical JSON (RFC 8785), at most 1 MiB.

        Raises:
            ManifestError: no file has role ``model``, or ``golden`` and its file disagree.
        """
        self._check_complete()
        payload = rfc8785.dumps(asdict(self))
        if len(payload) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"expected at most {MAX_MANIFEST_BYTES} bytes, got {len(payload)}")
        return payload

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Parse `payload`; the inverse of `to_bytes`, byte for byte.

        Raises:
            ManifestError: the payload is not the canonical form of a well-formed manifest.
        """
        try:
            raw = strict_json.loads(payload, max_bytes=MAX_MANIFEST_BYTES)
        except ValueError as error:
            raise ManifestError(f"manifest: {error}") from error
        manifest = cls(**_manifest_fields(cls, raw))
        if manifest.to_bytes() != payload:
            raise ManifestError("expected canonical JSON (RFC 8785), got another spelling")
        return manifest

    @property
    def digest(self) -> str:
        """The bundle's identity: sha256 of `to_bytes`."""
        return sha256_hex(self.to_bytes())

    def has(self, role: str) -> bool:
        """Return whether a file has `role`."""
        return any(entry.role == role for entry in self.files)

    def entry(self, role: str) -> FileEntry:
        """Return the file with `role`. Raises ManifestError if there is none."""
        for entry in self.files:
            if entry.role == role:
                return entry
        raise ManifestError(f"expected a file with role {role}, got none")

    def shipped(self) -> tuple[FileEntry, ...]:
        """Return the files that devices fetch, in the order of `DEVICE_ROLES`."""
        return tuple(self.entry(role) for role in DEVICE_ROLES if self.has(role))


def target_path(manifest: Manifest) -> str:
    """Return the manifest's name in signed metadata: MODEL/VERSION/PROFILE/manifest.json."""
    return f"{manifest.model}/{manifest.version}/{manifest.profile}/{MANIFEST_NAME}"


def _manifest_fields(cls: type[Manifest], raw: JSON) -> dict[str, Any]:
    values = _members(cls, raw, "manifest")
    for name, part in (("runtime", Runtime), ("limits", Limits), ("requires", Requires)):
        values[name] = part(**_members(part, values[name], name))
    if values["golden"] is not None:
        values["golden"] = Golden(**_members(Golden, values["golden"], "golden"))
    for name, item in (("files", FileEntry), ("inputs", TensorSpec), ("outputs", TensorSpec)):
        listed = _sequence(values[name], 2**20, name)
        values[name] = tuple(item(**_members(item, entry, name)) for entry in listed)
    return values


def _members(cls: type[Any], raw: object, what: str) -> dict[str, Any]:
    """Return the members of the JSON object `raw`: exactly the fields of `cls`."""
    if not isinstance(raw, dict):
        raise _wrong(what, "an object", raw)
    known = {one.name for one in fields(cls)}
    if missing := known - raw.keys():
        raise ManifestError(f"{what}: expected {', '.join(sorted(missing))}, got none")
    if unknown := raw.keys() - known:
        raise _wrong(what, "only known fields", sorted(unknown)[0])
    return dict(raw)


def _wrong(what: str, expected: str, got: object) -> ManifestError:
    shown = repr(got)
    return ManifestError(
        f"{what}: expected {expected}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"
    )


def _match(value: object, pattern: re.Pattern[str], what: str) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise _wrong(what, f"text like {pattern.pattern}", value)


def _integer(value: object, low: int, high: int, what: str) -> None:
    if type(value) is not int or not low <= value <= high:
        raise _wrong(what, f"an integer of {low} to {high}", value)


def _number(value: object, low: float, what: str) -> None:
    if type(value) not in (int, float) or not low <= value < float("inf"):  # type: ignore[operator]
        raise _wrong(what, f"a finite number of at least {low}", value)


def _instance(value: object, cls: type[Any], what: str) -> None:
    if not isinstance(value, cls):
        raise _wrong(what, cls.__name__, value)


def _sequence(value: object, longest: int, what: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong(what, "a list", value)
    if len(value) > longest:
        raise ManifestError(f"{what}: expected at most {longest} items, got {len(value)}")
    return tuple(value)


def _distinct(values: Sequence[str], what: str) -> None:
    if len(set(values)) != len(values):
        raise _wrong(what, "no name twice", list(values))


def _json_object(value: object, what: str) -> dict[str, JSON]:
    if not isinstance(value, Mapping):
        raise _wrong(what, "an object", value)
    try:
        copied: dict[str, JSON] = strict_json.plain(value, max_depth=12)
    except ValueError as error:
        raise ManifestError(f"{what}: {error}") from error
    return copied


def _step(value: object, what: str) -> dict[str, JSON]:
    step = _json_object(value, what)
    _match(step.get("op"), NAME, f"the op of a step in {what}")
    return step


def _check_path(path: object) -> None:
    """Refuse whatever could leave the bundle's folder or hide in it."""
    ok = (
        isinstance(path, str)
        and len(path) <= 255
        and all(_SEGMENT.fullmatch(segment) for segment in path.split("/"))
        and path.lower() not in (MANIFEST_NAME, *NEIGHBOURS)
    )
    if not ok:
        raise _wrong("a file's path", "a plain relative path", path)
