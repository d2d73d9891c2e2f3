"""Runs a task in a child process, so that a crash of a native library becomes a message."""

import signal
import threading
from collections.abc import Generator, Mapping
from typing import Any

from edgec_compiler.child import Child
from edgec_compiler.deaths import how_it_ended
from edgec_compiler.errors import (
    CompilerError,
    ConversionError,
    ModelFileError,
)
from edgec_compiler.options import CompileOptions

# Opening a model takes seconds; a file that keeps a library busy for longer than this is hostile.
IMPORT_TIMEOUT_S = 600.0
_IMPORT = "import"


class RemoteError(CompilerError):
    """What the worker could not do, in its own words and with its own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def compile_isolated(options: CompileOptions) -> Generator[dict[str, Any], None, None]:
    """Yield the events of a compile. Raises as `run_isolated`."""
    return run_isolated("compile", options.model, options.to_dict())


def run_isolated(
    task: str, model: str, options: Mapping[str, Any]
) -> Generator[dict[str, Any], None, None]:
    """Yield the worker's events, each with an "event": "step" or "result".

    Args:
        task: one that the worker knows.
        model: what the worker will import.
        options: of the task, plain JSON values.

    Raises:
        RemoteError: the worker says that nothing can be compiled, or that `compiler` is missing.
        ModelFileError: a library crashed, or would not end, while it read the model file.
        ConversionError: the worker died; the message names the step and shows the end of its log.
    """
    step = "start"
    with Child("edgec_compiler.worker", {"task": task, "options": dict(options)}) as child:
        limit = threading.Timer(IMPORT_TIMEOUT_S, child.kill)
        limit.daemon = True
        limit.start()
        try:
            for event in child.answers():
                step = event.get("step", step)
                if step != _IMPORT:
                    limit.cancel()
                yield _checked(event)
        finally:
            limit.cancel()
        if child.status != 0 and step == _IMPORT and not _is_program(model):
            raise ModelFileError(_unreadable(model, child.status, child.said()))
        if child.status != 0:
            raise ConversionError(_death(child.status, step, child.said()))


def _is_program(model: str) -> bool:
    """Return whether `model` is FILE.py:FACTORY: its death is a program's, not a file format's."""
    return ".py:" in model


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    if event["event"] == "failed":
        raise RemoteError(event["error"], event["exit_code"])
    return event


def _unreadable(model: str, status: int, said: list[str]) -> str:
    """Return why a file is refused whose reading ended the worker."""
    if status == -signal.SIGKILL:
        why = f"takes more than {IMPORT_TIMEOUT_S:.0f} s or all the memory of this machine"
        return f"{model}: reading it {why}: it is damaged or hostile, or too large"
    more = f" ({said[-1]})" if said and status > 0 else ""
    how = how_it_ended(status) + more
    return f"{model}: a damaged or hostile file: the library that reads it {how}"


def _death(status: int, step: str, said: list[str]) -> str:
    """Return what killed the worker, where, and the end of what it said."""
    shown = " | ".join(said)
    return f"the compiler's worker {how_it_ended(status)} at step '{step}'" + (
        f"; it last said: {shown}" if shown else ""
    )
