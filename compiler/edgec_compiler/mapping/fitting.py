"""The last step to a target: its vendor's compiler, or what a microcontroller's build needs.

Takes the portable model that was judged, and returns what the bundle holds as `model`, what is kept
beside it, and where every operator runs. A vendor's program that is not there is said in a note;
the portable model then stays the bundle's model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec_bundle.manifest import Runtime
from edgec_compiler.errors import NotAchievedError
from edgec_compiler.interface import Interface
from edgec_compiler.mapping import micro, vela, vendor
from edgec_compiler.mapping.checking import Mapping as OperatorMapping
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.graph import ModelGraph
from edgec_compiler.mapping.programs import is_installed
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_compiler.samples import Samples, feeds
from edgec_compiler.source import SourceModel
from edgec_hardware_profiles import Profile, Tool

MAX_SAMPLES = 512  # that a vendor's compiler is given
_SHOWN = 5
_ADDED = ("QUANTIZE", "DEQUANTIZE")  # by quantisers, between the operators of a TFLite file


@dataclass(frozen=True, slots=True)
class Accelerated:
    """How many of the source's operators an accelerator runs, or is predicted to run."""

    total: int
    accelerated: int
    of_file: tuple[int, int] | None = None  # the same of the compiled file, if ours is the least

    def to_json(self) -> dict[str, Any]:
        """Return {"total", "accelerated"}, and "file" with its own where ours is the least."""
        counts: dict[str, Any] = {"total": self.total, "accelerated": self.accelerated}
        if self.of_file is not None:
            total, accelerated = self.of_file
            counts["file"] = {"total": total, "accelerated": accelerated}
        return counts


@dataclass(frozen=True, slots=True)
class Fitted:
    """A target's form of a model."""

    payload: bytes
    path: str  # inside the bundle
    format: str
    mapping: OperatorMapping
    own_binary: bool = False  # the vendor's; no CPU runs it
    extras: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)  # role -> path, bytes
    figures: Mapping[str, float] = field(default_factory=dict)  # estimates of a tool, by unit
    notes: tuple[str, ...] = ()

    def accelerated_of(self, source: SourceModel) -> Accelerated:
        """Return how many of the source's operators the accelerator runs.

        Exact where the source's own operators were mapped, where quantising put nothing but its
        own operators between them, and where all or nothing is accelerated. Elsewhere conversion
        has left no trace of which operators were which: each that stays on the CPU may be another
        one of the source's, so the count is the least that it can be.
        """
        mapped, total = self.mapping, len(source.operators)
        if mapped.total == total or not mapped.accelerated:
            return Accelerated(total, mapped.accelerated)
        left = mapped.total - mapped.accelerated
        if not left:
            return Accelerated(total, total)
        own = [verdict for verdict in mapped.ops if verdict.op not in _ADDED]
        kept = [verdict.op for verdict in own] == [operator.op for operator in source.operators]
        if source.format == self.format == "tflite" and kept:
            return Accelerated(total, sum(verdict.on != "cpu" for verdict in own))
        return Accelerated(total, max(0, total - left), (mapped.total, mapped.accelerated))

    def runtime(self, profile: Profile, portable: Runtime) -> Runtime:
        """Return what runs it: the target's own runtime for a vendor's binary."""
        own = profile.runtime
        return Runtime(own.name, own.min_version, own.delegate) if self.own_binary else portable


def fit_to_target(
    payload: bytes,
    fmt: str,
    profile: Profile,
    name: str,
    samples: npt.NDArray[Any] | None = None,
) -> Fitted:
    """Return the form of a portable model that `profile` takes.

    Args:
        payload: the portable model, already judged.
        fmt: "tflite" or "onnx".
        profile: the target.
        name: of the model, for texts in generated sources.
        samples: calibration inputs for a compiler that quantises by itself, [n, ...].

    Raises:
        ConversionError: the vendor's compiler failed.
        NotAchievedError: it maps nothing, or the target's memory is too small.
        MissingExtraError: the target always needs its compiler, which is not installed.
    """
    tools = {tool.kind: tool for tool in reversed(profile.tools)}
    if "vela" in tools and fmt == "tflite":
        return _vela(payload, profile, tools["vela"])
    if "micro" in tools and fmt == "tflite":
        return _micro(payload, profile, name)
    portable = Fitted(payload, f"model.{fmt}", fmt, check(graph_of(payload, fmt), profile))
    if "command" not in tools:
        return portable
    return _command(portable, profile, tools["command"], samples)


def calibration_inputs(samples: Samples | None, interface: Interface) -> npt.NDArray[Any] | None:
    """Return the first calibration inputs as the model's tensor takes them, [n, ...].

    None without samples, and for a model with several inputs.
    """
    if samples is None or len(interface.inputs) != 1:
        return None
    rows = islice(feeds(samples, interface, ["input"]), MAX_SAMPLES)
    return np.concatenate([row["input"] for row in rows])


def graph_of(payload: bytes, fmt: str) -> ModelGraph:
    """Return the operators of a model that this process trusts: it made it."""
    if fmt == "tflite":
        return read_tflite(payload, "the model")
    from edgec_compiler.mapping.onnx_graph import graph_of_bytes

    return graph_of_bytes(payload)


def _vela(payload: bytes, profile: Profile, tool: Tool) -> Fitted:
    made = vela.compile_with_vela(payload, profile, tool)
    mapping = made.mapping
    if not mapping.accelerated:
        raise NotAchievedError(f"{profile.name}: no operator runs on the NPU: {_told(mapping)}")
    need, limit = made.figures.get("sram_bytes", 0), profile.accelerator_memory_bytes
    if limit is not None and need > limit:
        raise NotAchievedError(
            f"{profile.name}: the model needs {need:.0f} bytes of SRAM, the target has {limit}: "
            "make its inputs or layers smaller, or give a profile of your own with your memory"
        )
    estimates = (
        f"estimates of Vela for {tool.options.get('system_config', 'its defaults')} with "
        f"{tool.options.get('memory_mode', 'its default memory mode')}, not measurements"
    )
    left = mapping.total - mapping.accelerated
    count = "1 operator stays" if left == 1 else f"{left} operators stay"
    on_cpu = (f"{count} on the CPU: {_told(mapping)}",) if left else ()
    return Fitted(
        made.payload,
        "model_vela.tflite",
        "tflite",
        mapping,
        own_binary=True,
        extras={"reference": ("reference.tflite", payload)},
        figures=made.figures,
        notes=(estimates, *on_cpu),
    )


def _micro(payload: bytes, profile: Profile, name: str) -> Fitted:
    graph = read_tflite(payload, "the model")
    mapping = check(graph, profile)
    refused = [verdict for verdict in mapping.ops if verdict.reason is not None]
    if refused:
        raise NotAchievedError(f"{profile.name}: TFLite Micro cannot run it: {_told(mapping)}")
    build = micro.build_micro(payload, graph, name)
    limit = profile.memory_bytes
    if limit is not None and build.arena_bytes > limit:
        raise NotAchievedError(
            f"{profile.name}: the tensor arena needs about {build.arena_bytes} bytes, the device "
            f"has {limit} bytes of memory: make the model's inputs or layers smaller"
        )
    return Fitted(
        payload,
        "model.tflite",
        "tflite",
        mapping,
        extras={
            "source": ("model_data.cc", build.source),
            "header": ("model_data.h", build.header),
        },
        figures={"arena_bytes": float(build.arena_bytes)},
        notes=(
            f"tensor arena: about {build.arena_bytes} bytes (an estimate); operators to link: "
            f"{', '.join(build.operators)}",
        ),
    )


def _command(
    portable: Fitted, profile: Profile, tool: Tool, samples: npt.NDArray[Any] | None
) -> Fitted:
    if not is_installed(tool):
        return _with_note(portable, vendor.absence(profile, tool))
    made = vendor.compile_with_tool(portable.payload, portable.format, profile, tool, samples)
    mapping = made.mapping or portable.mapping
    if made.mapping is not None and not made.mapping.accelerated:
        raise NotAchievedError(f"{profile.name}: {tool.name} maps nothing: {_told(mapping)}")
    return Fitted(
        made.payload,
        f"model_{profile.name}.{made.format}",
        made.format,
        mapping,
        own_binary=True,
        extras={"reference": (f"reference.{portable.format}", portable.payload)},
        notes=(f"compiled by {tool.name}",),
    )


def _with_note(fitted: Fitted, note: str) -> Fitted:
    return Fitted(
        fitted.payload, fitted.path, fitted.format, fitted.mapping, notes=(*fitted.notes, note)
    )


def _told(mapping: OperatorMapping) -> str:
    refused = [f"{v.op}: {v.reason}" for v in mapping.ops if v.reason is not None]
    more = f" (and {len(refused) - _SHOWN} more)" if len(refused) > _SHOWN else ""
    return "; ".join(refused[:_SHOWN]) + more
