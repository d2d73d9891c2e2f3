"""Arm's Vela: compiles the portable int8 model for an Ethos-U, always in a child process.

Its exit status proves nothing (0 with every operator on the CPU; a crash on weights of 4 bits), and
its own count is of lowered operators. So weights are checked before, and what was mapped is read
from its output, counted as the source's own operators.
"""

import csv
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgec_compiler.errors import ConversionError, MissingExtraError
from edgec_compiler.mapping import children
from edgec_compiler.mapping.checking import Mapping as OperatorMapping
from edgec_compiler.mapping.compiled import left_on_cpu, mapping_of, with_distinct_names
from edgec_compiler.mapping.graph import ModelGraph
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_hardware_profiles import Profile, Tool

_OWN_OPERATOR = "ethos-u"
_OPTIONS = ("accelerator-config", "config", "system-config", "memory-mode", "optimise")
_REFUSED = re.compile(r"operator: \S+, ofm: '([^']*)'\s*\n(?:Reason: )?(.+)")
_INVALID = re.compile(r"'([^']*)' Does not have valid TFLite Semantics\.?\s*\n((?:.*\n)*)")
_KIB = 1024
# column of Vela's summary -> (name here, factor)
_FIGURES = {
    "inference_time": ("inference_ms", 1000.0),
    "cycles_total": ("cycles", 1.0),
    "cycles_npu": ("npu_cycles", 1.0),
    "core_clock": ("clock_hz", 1.0),
    "nn_macs": ("macs", 1.0),
    "sram_memory_used": ("sram_bytes", float(_KIB)),
    "dram_memory_used": ("dram_bytes", float(_KIB)),
    "off_chip_flash_memory_used": ("flash_bytes", float(_KIB)),
    "on_chip_flash_memory_used": ("on_chip_flash_bytes", float(_KIB)),
    "total_npu_encoded_weights": ("weight_bytes", 1.0),
}


@dataclass(frozen=True, slots=True)
class VelaResult:
    """What Vela made. `figures` are Vela's own estimates for its system configuration."""

    payload: bytes
    mapping: OperatorMapping
    figures: Mapping[str, float]
    log: str


def is_installed() -> bool:
    """Return whether the extra `vela` is installed."""
    return importlib.util.find_spec("ethosu") is not None


def compile_with_vela(payload: bytes, profile: Profile, tool: Tool) -> VelaResult:
    """Return the model compiled for `profile`.

    Args:
        payload: a quantised TFLite model.
        profile: an Ethos-U target.
        tool: the profile's tool of kind "vela".

    Raises:
        MissingExtraError: Vela is not installed.
        ModelFileError: `payload` is damaged.
        ConversionError: Vela cannot take the model, or failed.
    """
    if not is_installed():
        raise MissingExtraError("vela", f"compiling for {profile.name}")
    graph = read_tflite(payload, "the model")
    _refuse_what_crashes_it(graph, profile)
    named, makers = with_distinct_names(payload, graph)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "model.tflite").write_bytes(named)
        ended = children.run(_command(tool), place, tool.timeout_s)
        made = place / "out" / "model_vela.tflite"
        if ended.failed or "Traceback" in ended.output or not made.is_file():
            why = _invalid(ended.output, read_tflite(named, "the model"))
            raise ConversionError(f"{profile.name}: Vela {why or ended.account()}")
        compiled = made.read_bytes()
        figures = _figures(place / "out")
    left = left_on_cpu(read_tflite(compiled, "Vela's output"), makers, (_OWN_OPERATOR,))
    reasons = {
        makers[name]: reason.strip()
        for name, reason in _REFUSED.findall(ended.output)
        if name in makers
    }
    return VelaResult(compiled, mapping_of(graph, profile, left, reasons), figures, ended.output)


def _refuse_what_crashes_it(graph: ModelGraph, profile: Profile) -> None:
    for tensor in graph.tensors:
        if tensor.dtype == "int4":
            raise ConversionError(
                f"{profile.name}: weights must have 8 bits, but {tensor} has 4: use "
                "--precision int8"
            )


def _invalid(output: str, graph: ModelGraph) -> str | None:
    """Return what Vela says to be no valid TFLite, with the operator; None if it says nothing."""
    found = _INVALID.search(output)
    if found is None:
        return None
    numbers = {i for i, tensor in enumerate(graph.tensors) if tensor.name == found[1]}
    made = [f"{one.op} makes" for one in graph.operators if numbers & {*one.outputs}]
    read = [f"{one.op} reads" for one in graph.operators if numbers & {*one.inputs}]
    user = next(iter(made + read), "no operator reads")
    lines = [line.strip(" -") for line in found[2].splitlines() if line.strip()]
    return f"does not take '{found[1]}', which {user}: {'; '.join(lines[:4])}"


def _command(tool: Tool) -> list[str]:
    command = [sys.executable, "-P", "-m", "ethosu.vela", "model.tflite", "--output-dir", "out"]
    for option in _OPTIONS:
        value = tool.options.get(option.replace("-", "_"))
        command += [] if value is None else [f"--{option}", value]
    return command


def _figures(folder: Path) -> dict[str, float]:
    """Return the figures of the summary that Vela writes beside its output."""
    found = sorted(folder.glob("model_summary_*.csv"))
    if len(found) != 1:
        return {}
    with found[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 1:
        return {}
    return {
        name: float(rows[0][column]) * factor
        for column, (name, factor) in _FIGURES.items()
        if column in rows[0]
    }
