"""What a hardware profile says, and how its TOML text becomes one.

Decides what is a well-formed profile; `catalog` finds the texts. The meaning of every key is in
docs/reference/profiles.md.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgec_hardware_profiles._fields import Table
from edgec_hardware_profiles.errors import MalformedProfileError
from edgec_hardware_profiles.host import HostRule
from edgec_hardware_profiles.support import Support, read_support
from edgec_hardware_profiles.tools import Tool, read_tools

SCHEMA = 1
MAX_BYTES = 1 << 20
FORMATS = ("tflite", "onnx")
# runtime -> the format that it runs; any other runtime is a vendor's, fed by the profile's tool
RUNTIMES = {"litert": "tflite", "onnxruntime": "onnx", "tflite-micro": "tflite"}
DELEGATES = ("cpu", "xnnpack", "edgetpu", "cuda", "tensorrt", "qnn", "ethosu", "vx", "npu")
ARCHITECTURES = ("any", "x86_64", "aarch64", "armv7l", "armv7em")
PRECISIONS = ("fp32", "fp16", "int8", "int16x8", "int4", "dynamic", "int8-weights")
LAYOUTS = ("NHWC", "NCHW")
QDQ_STYLES = ("generic", "tensorrt")
JUDGED = ("serving", "exact")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){1,2}")
# Figures that nobody may state without saying where they come from.
_FIGURES = (
    "runtime.min_version",
    "model.max_opset",
    "memory.device_bytes",
    "memory.accelerator_bytes",
    "memory.storage_bytes",
)
# Figures of `[rates]`: how much the target can do at best, in the unit that the name ends with.
_COMPUTES = ("fp32_macs_per_s", "fp16_macs_per_s", "int8_macs_per_s", "int16_macs_per_s")
RATES = (
    *("macs_per_s", "flops_per_s", "bytes_per_s", "clock_hz", "cores"),
    *("op_s", "run_s", "link_bytes_per_s", "dense_share", "depthwise_share", "element_share"),
    *_COMPUTES,
    *(f"cpu_{rate}" for rate in (*_COMPUTES, "bytes_per_s", "op_s")),
)


@dataclass(frozen=True, slots=True)
class ProfileRuntime:
    """Which runtime executes the model on the target."""

    name: str  # one of RUNTIMES, or a vendor's
    min_version: str
    delegate: str  # one of DELEGATES


@dataclass(frozen=True, slots=True)
class Quantization:
    """How integer models for the target are made and judged."""

    reduce_range: bool  # 7-bit weights, for x86 kernels whose 16-bit sums saturate
    qdq_style: str  # "generic" | "tensorrt": symmetric, Q/DQ pairs on weights, float bias
    judged: str  # "serving": as ONNX Runtime optimises it; "exact": graph optimisation off


@dataclass(frozen=True, slots=True)
class Profile:
    """One hardware target, as its TOML file states it."""

    name: str
    title: str
    arch: str  # one of ARCHITECTURES
    runtime: ProfileRuntime
    format: str  # default format, one of `formats`
    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    default_precision: str
    input_layout: str  # layout of image tensors inside the model
    full_integer: bool  # every tensor of the model, inputs and outputs included, must be integer
    max_opset: int | None  # newest ONNX opset that the runtime surely has; None for TFLite
    accelerator: str | None
    memory_bytes: int | None  # of the smallest device sold under this name; None: not known
    accelerator_memory_bytes: int | None  # on-chip memory for weights or activations
    storage_bytes: int | None  # where the model's file lies if not in memory: flash
    quantization: Quantization
    host: HostRule
    sources: Mapping[str, str]  # figure -> where it comes from
    notes: tuple[str, ...] = ()
    support: Support | None = None  # what its accelerator takes; None: there is none
    rates: Mapping[str, float] = field(default_factory=dict)  # peak figures, keys of RATES
    tools: tuple[Tool, ...] = ()  # vendor programs, run when they are there

    @classmethod
    def from_toml(cls, text: str, origin: str) -> "Profile":
        """Parse the text of a profile; `origin` names it in messages.

        Raises:
            MalformedProfileError: not TOML, or a key is missing, unknown or of a wrong kind.
        """
        if len(text) > MAX_BYTES:
            raise MalformedProfileError(origin, f"a profile has at most {MAX_BYTES} bytes")
        try:
            raw = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise MalformedProfileError(origin, f"not TOML: {error}") from error
        return _profile(Table(raw, origin))


def _profile(root: Table) -> Profile:
    schema = root.integer("schema")
    if schema != SCHEMA:
        root.fail("schema", f"expected {SCHEMA}, got {schema}")
    model, memory = root.table("model"), root.table("memory", optional=True)
    rates = root.table("rates", optional=True)
    formats = model.choices("formats", FORMATS)
    precisions = model.choices("precisions", PRECISIONS)
    profile = Profile(
        name=root.matching("name", _NAME),
        title=root.text("title"),
        arch=root.choice("arch", ARCHITECTURES),
        runtime=_runtime(root.table("runtime")),
        format=model.choice("format", formats),
        formats=formats,
        precisions=precisions,
        default_precision=model.choice("default_precision", precisions),
        input_layout=model.choice("input_layout", LAYOUTS),
        full_integer=model.boolean("full_integer", default=False),
        max_opset=model.optional_integer("max_opset"),
        accelerator=root.optional_text("accelerator"),
        memory_bytes=memory.optional_integer("device_bytes"),
        accelerator_memory_bytes=memory.optional_integer("accelerator_bytes"),
        storage_bytes=memory.optional_integer("storage_bytes"),
        quantization=_quantization(root.table("quantization", optional=True)),
        host=_host_rule(root.table("host", optional=True)),
        sources=root.table("sources", optional=True).strings(),
        notes=root.texts("notes"),
        support=_support(root),
        rates=rates.numbers(),
        tools=read_tools(root.table("tools", optional=True)),
    )
    for table in (model, memory, root):
        table.refuse_unread()
    _check_sources(root, profile, {"model": model, "memory": memory})
    _check_rates(root, profile)
    _check_consistent(root, profile)
    return profile


def _support(root: Table) -> Support | None:
    ops = root.table("ops", optional=True)
    if "mapping" not in root:
        if ops.names():
            root.fail("mapping", "missing; [ops] needs a [mapping] that says where they run")
        return None
    return read_support(root.table("mapping"), ops)


def _runtime(table: Table) -> ProfileRuntime:
    runtime = ProfileRuntime(
        name=table.matching("name", _NAME),
        min_version=table.matching("min_version", _VERSION),
        delegate=table.choice("delegate", DELEGATES, default="cpu"),
    )
    table.refuse_unread()
    return runtime


def _quantization(table: Table) -> Quantization:
    quantization = Quantization(
        reduce_range=table.boolean("reduce_range", default=False),
        qdq_style=table.choice("qdq_style", QDQ_STYLES, default="generic"),
        judged=table.choice("judged", JUDGED, default="exact"),
    )
    table.refuse_unread()
    return quantization


def _host_rule(table: Table) -> HostRule:
    rule = HostRule(
        machines=table.texts("machines"),
        board=table.optional_text("board"),
        usb=table.texts("usb"),
        pci=table.texts("pci"),
    )
    table.refuse_unread()
    return rule


def _check_sources(root: Table, profile: Profile, tables: Mapping[str, Table]) -> None:
    for figure in _FIGURES:
        table, _, key = figure.partition(".")
        stated = table == "runtime" or key in tables[table]
        if stated and figure not in profile.sources:
            root.fail("sources", f'"{figure}" has a value but no source')


def _check_rates(root: Table, profile: Profile) -> None:
    for rate in profile.rates:
        if rate not in RATES:
            root.fail("rates", f"unknown '{rate}'; known: {', '.join(RATES)}")
        if f"rates.{rate}" not in profile.sources:
            root.fail("sources", f'"rates.{rate}" has a value but no source')


def _check_consistent(root: Table, profile: Profile) -> None:
    runs = RUNTIMES.get(profile.runtime.name)
    if runs is None and not profile.tools:
        known = f"expected one of {', '.join(RUNTIMES)}, or a vendor's with its program in [tools]"
        root.fail("runtime.name", f"{known}; got '{profile.runtime.name}'")
    if runs is not None and profile.format != runs:
        root.fail("runtime.name", f"{profile.runtime.name} runs {runs}, not {profile.format}")
    if profile.full_integer and not {"int8", "int16x8"} & set(profile.precisions):
        root.fail("model.full_integer", "needs an integer precision among model.precisions")
    for key, value in (
        ("memory.device_bytes", profile.memory_bytes),
        ("memory.accelerator_bytes", profile.accelerator_memory_bytes),
        ("memory.storage_bytes", profile.storage_bytes),
        ("model.max_opset", profile.max_opset),
    ):
        if value is not None and value <= 0:
            root.fail(key, f"expected a number above 0, got {value}")
