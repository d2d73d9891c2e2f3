"""Vendor compilers that a profile names: run when they are on PATH, missed without harm.

What a program is called with stands in the profile's `[tools]`; nothing here knows a vendor.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgec_compiler.errors import ConversionError
from edgec_compiler.mapping import children
from edgec_compiler.mapping.checking import Mapping as OperatorMapping
from edgec_compiler.mapping.compiled import left_on_cpu, mapping_of, with_distinct_names
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import Profile, Tool

_STEM = "model"
_MAX_RESULT_BYTES = 1 << 31
# Custom operators that stand for what a vendor's compiler mapped.
_OWN_OPERATORS = ("edgetpu-custom-op", "ethos-u", "NeutronGraph", "neutron-custom-op")


@dataclass(frozen=True, slots=True)
class VendorResult:
    """What a vendor's program made."""

    payload: bytes
    format: str
    mapping: OperatorMapping | None  # where the result tells


def is_installed(tool: Tool) -> bool:
    """Return whether the program is on PATH."""
    return tool.program is not None and shutil.which(tool.program) is not None


def absence(profile: Profile, tool: Tool) -> str:
    """Return what it means that the program is not there, in a sentence or two."""
    how = f" Get it: {tool.get}." if tool.get else ""
    return (
        f"{tool.name} was not found on PATH: the bundle holds the portable model that it takes, "
        f"not {profile.name}'s own binary.{how}"
    )


def compile_with_tool(payload: bytes, fmt: str, profile: Profile, tool: Tool) -> VendorResult:
    """Return what the program makes of a model.

    Args:
        payload: the portable model.
        fmt: its format, "tflite" or "onnx".
        profile: the target.
        tool: the profile's tool of kind "command", on PATH.

    Raises:
        ConversionError: the program failed, or left no result.
    """
    graph = read_tflite(payload, "the model") if fmt == "tflite" else None
    makers: dict[str, int] = {}
    if graph is not None:
        payload, makers = with_distinct_names(payload, graph)
    with TemporaryDirectory() as folder:
        result = _run_steps(payload, fmt, profile, tool, Path(folder))
    mapping = None
    if graph is not None and tool.format == "tflite":
        compiled = read_tflite(result, f"{tool.name}'s output")
        left = left_on_cpu(compiled, makers, _OWN_OPERATORS)
        mapping = mapping_of(graph, profile, left, {})
    return VendorResult(result, tool.format or fmt, mapping)


def _run_steps(payload: bytes, fmt: str, profile: Profile, tool: Tool, folder: Path) -> bytes:
    model, out = folder / f"{_STEM}.{fmt}", folder / "out"
    out.mkdir()
    model.write_bytes(payload)
    places = {"model": str(model), "out": str(out), "stem": _STEM}
    for name, text in tool.files.items():
        (out / name).write_text(_filled(text, places), encoding="utf-8")
    for step in tool.steps:
        command = [_filled(argument, places) for argument in step]
        if shutil.which(command[0]) is None:
            raise ConversionError(f"{profile.name}: {command[0]} is not on PATH")
        ended = children.run(command, out, tool.timeout_s)
        if ended.failed:
            raise ConversionError(f"{profile.name}: {command[0]} {ended.account()}")
    made = out / _filled(tool.result or "", places)
    if not made.is_file() or not 0 < made.stat().st_size < _MAX_RESULT_BYTES:
        raise ConversionError(f"{profile.name}: {tool.name} left no {made.name}")
    return made.read_bytes()


def _filled(text: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    return text
