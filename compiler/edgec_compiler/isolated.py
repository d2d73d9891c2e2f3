"""Runs a compile in a child process, so that a crash of a native library becomes a message."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

from edgec_compiler.errors import (
    CompilerError,
    ConversionError,
    MissingExtraError,
    ModelFileError,
)
from edgec_compiler.options import CompileOptions

# Opening a model takes seconds; a file that keeps a library busy for longer than this is hostile.
IMPORT_TIMEOUT_S = 600.0
_IMPORT = "import"
_LOG_LINES = 15
_LOG_BYTES = 64 << 10


class RemoteError(CompilerError):
    """What the worker could not do, in its own words and with its own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def compile_isolated(options: CompileOptions) -> Iterator[dict[str, Any]]:
    """Yield the worker's events, each with an "event": "step" or "result".

    Raises:
        RemoteError: the worker says that nothing can be compiled.
        ModelFileError: a library crashed, or would not end, while it read the model file.
        ConversionError: the worker died; the message names the step and shows the end of its log.
        MissingExtraError: the extra `compiler` is not installed.
    """
    read_end, write_end = os.pipe()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgec_compiler.worker", str(write_end)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
        )
        os.close(write_end)
        step = "start"
        limit = threading.Timer(IMPORT_TIMEOUT_S, child.kill)
        limit.daemon = True
        try:
            _feed(child, options)
            limit.start()
            with os.fdopen(read_end, encoding="utf-8") as events:
                for line in events:
                    event = json.loads(line)
                    step = event.get("step", step)
                    if step != _IMPORT:
                        limit.cancel()
                    yield _checked(event)
            child.wait()
        finally:
            limit.cancel()
            child.kill()
            child.wait()
        if child.returncode != 0 and step == _IMPORT and not _is_program(options.model):
            raise ModelFileError(_unreadable(options.model, child.returncode, log))
        if child.returncode != 0:
            raise ConversionError(_death(child.returncode, step, log))


def _is_program(model: str) -> bool:
    """Return whether `model` is FILE.py:FACTORY: its death is a program's, not a file format's."""
    return ".py:" in model


def _feed(child: subprocess.Popen[bytes], options: CompileOptions) -> None:
    if child.stdin is None:
        raise RuntimeError("the worker has no stdin")
    with child.stdin as pipe:
        try:
            pipe.write(json.dumps(options.to_dict()).encode())
        except BrokenPipeError:
            return  # it died; how, its exit status says


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    if event["event"] == "failed":
        raise RemoteError(event["error"], event["exit_code"])
    if event["event"] == "missing":
        raise MissingExtraError("compiler", f"compiling (module {event['module']})")
    return event


def _unreadable(model: str, status: int, log: IO[bytes]) -> str:
    """Return why a file is refused whose reading ended the worker."""
    if status == -signal.SIGKILL:
        why = f"takes more than {IMPORT_TIMEOUT_S:.0f} s or all the memory of this machine"
        return f"{model}: reading it {why}: it is damaged or hostile, or too large"
    said = _last_lines(log)[-1:]
    more = f" ({said[0]})" if said and status > 0 else ""
    return f"{model}: a damaged or hostile file: the library that reads it {_how(status)}{more}"


def _death(status: int, step: str, log: IO[bytes]) -> str:
    """Return what killed the worker, where, and the end of what it said."""
    how = _how(status) + (" (out of memory?)" if status == -signal.SIGKILL else "")
    shown = "".join(f"\n  {line}" for line in _last_lines(log))
    return f"the compiler's worker {how} at step '{step}'" + (
        f"; it last said:{shown}" if shown else ""
    )


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _last_lines(log: IO[bytes]) -> list[str]:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _LOG_BYTES))
    lines = log.read().decode("utf-8", "replace").strip().splitlines()[-_LOG_LINES:]
    return [line[:300] for line in lines]
