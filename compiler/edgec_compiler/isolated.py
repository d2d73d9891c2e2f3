"""Runs a compile in a child process, so that a crash of a native library becomes a message."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from edgec_compiler.errors import CompilerError, ConversionError, MissingExtraError
from edgec_compiler.options import CompileOptions

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
        try:
            _feed(child, options)
            with os.fdopen(read_end, encoding="utf-8") as events:
                for line in events:
                    event = json.loads(line)
                    step = event.get("step", step)
                    yield _checked(event)
            child.wait()
        finally:
            child.kill()
            child.wait()
        if child.returncode != 0:
            raise ConversionError(_death(child.returncode, step, log))


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


def _death(status: int, step: str, log: IO[bytes]) -> str:
    """Return what killed the worker, where, and the end of what it said."""
    if status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
        if -status == signal.SIGKILL:
            how += " (out of memory?)"
    else:
        how = f"ended with status {status}"
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _LOG_BYTES))
    lines = log.read().decode("utf-8", "replace").strip().splitlines()[-_LOG_LINES:]
    shown = "".join(f"\n  {line[:300]}" for line in lines)
    return f"the compiler's worker {how} at step '{step}'" + (
        f"; it last said:{shown}" if shown else ""
    )
