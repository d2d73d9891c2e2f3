"""Vendor compilers that a profile names: run when they are on PATH, missed without harm.

What a program is called with stands in the profile's `[tools]`; nothing here knows a vendor.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec_compiler.errors import ConversionError
from edgec_compiler.mapping import children
from edgec_compiler.mapping.checking import Mapping as OperatorMapping
from edgec_compiler.mapping.compiled import left_on_cpu, mapping_of, with_distinct_names
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import Profile, Tool

_STEM = "model"
_PLACE = re.compile(r"\{([a-z_]+)\}")
_MAX_RESULT_BYTES = 1 << 31
# Custom operators that stand for what a vendor's compiler mapped.
_OWN_OPERATORS = ("edgetpu-custom-op", "ethos-u", "NeutronGraph", "neutron-custom-op")


@dataclass(frozen=True, slots=True)
class VendorResult:
    """What a vendor's program made."""

    payload: bytes
    format: str
    mapping: OperatorMapping | None  # where the result tells


def absence(profile: Profile, tool: Tool) -> str:
    """Return what it means that the program is not there, in a sentence or two."""
    how = f" Get it: {tool.get}." if tool.get else ""
    return (
        f"{tool.name} was not found on PATH: the bundle holds the portable model that it takes, "
        f"not {profile.name}'s own binary.{how}"
    )


def compile_with_tool(
    payload: bytes,
    fmt: str,
    profile: Profile,
    tool: Tool,
    samples: npt.NDArray[Any] | None = None,
) -> VendorResult:
    """Return what the program makes of a model.

    Args:
        payload: the portable model.
        fmt: its format, "tflite" or "onnx".
        profile: the target.
        tool: the profile's tool of kind "command", on PATH.
        samples: calibration inputs as the model's one input takes them, [n, ...]; None: there are
            none.

    Raises:
        ConversionError: the program failed, left no result, or needs samples.
    """
    if tool.needs_samples and samples is None:
        raise ConversionError(
            f"{profile.name}: {tool.name} quantises the model itself: add --calibration DATA "
            "(for a model with one input)"
        )
    graph = read_tflite(payload, "the model") if fmt == "tflite" else None
    makers: dict[str, int] = {}
    if graph is not None:
        payload, makers = with_distinct_names(payload, graph)
    with TemporaryDirectory() as folder:
        places = _places(payload, fmt, samples, Path(folder))
        result = _run_steps(places, profile, tool)
    mapping = None
    if graph is not None and tool.format == "tflite":
        compiled = read_tflite(result, f"{tool.name}'s output")
        left = left_on_cpu(compiled, makers, _OWN_OPERATORS)
        mapping = mapping_of(graph, profile, left, {})
    return VendorResult(result, tool.format or fmt, mapping)


def _places(
    payload: bytes, fmt: str, samples: npt.NDArray[Any] | None, folder: Path
) -> dict[str, str]:
    """Write what goes in, and return what the placeholders stand for."""
    model, out = folder / f"{_STEM}.{fmt}", folder / "out"
    out.mkdir()
    model.write_bytes(payload)
    places = {"model": str(model), "out": str(out), "stem": _STEM}
    if samples is not None:
        last = np.moveaxis(samples, 1, -1) if samples.ndim == 4 and fmt == "onnx" else samples
        for name, values in (("samples", samples), ("samples_nhwc", last)):
            places[name] = str(folder / f"{name}.npy")
            np.save(places[name], np.ascontiguousarray(values), allow_pickle=False)
    return places


def _run_steps(places: dict[str, str], profile: Profile, tool: Tool) -> bytes:
    out = Path(places["out"])
    for name, text in tool.files.items():
        (out / name).write_text(_filled(text, places), encoding="utf-8")
    for step in tool.steps:
        command = [_filled(argument, places) for argument in step]
        if shutil.which(command[0]) is None:
            raise ConversionError(f"{profile.name}: {command[0]} is not on PATH")
        ended = children.run(command, out, tool.timeout_s)
        if ended.failed:
            raise ConversionError(f"{profile.name}: {command[0]} {ended.account()}")
    wanted = _filled(tool.result or "", places)
    made = [file for file in sorted(out.rglob(wanted)) if file.is_file()]
    if len(made) != 1 or not 0 < made[0].stat().st_size < _MAX_RESULT_BYTES:
        raise ConversionError(f"{profile.name}: {tool.name} left no {wanted}, or several")
    return made[0].read_bytes()


def _filled(text: str, places: dict[str, str]) -> str:
    return _PLACE.sub(lambda found: places.get(found[1], found[0]), text)
