"""The child process in which models are opened and compiled: ``python -m edgec_compiler.worker``.

A task (one of `_TASKS`) and its options come as JSON on stdin; events go as one JSON object per
line to the file descriptor that argv names. Whatever native libraries print goes to stdout and
stderr, which the parent keeps as a log. A library that crashes takes only this process down.
"""

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from edgec_compiler.child import end_with_parent
from edgec_compiler.comparing.options import CompareOptions
from edgec_compiler.errors import CompilerError, MissingExtraError
from edgec_compiler.inspecting import inspect_model
from edgec_compiler.memory import available_bytes
from edgec_compiler.options import CompileOptions

# New objects after which Python looks for garbage. At its default of 700, it walks over and over
# through the hundreds of thousands of objects that the converters' own modules are made of.
_NEW_OBJECTS = 50_000
_MEMORY_SHARE = 0.9  # of what is free


def main() -> int:
    """Do what stdin asks for; always report how it ended."""
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as events:
        signal.signal(signal.SIGTERM, _leave)
        end_with_parent(events.fileno())
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        _leave_memory_to_others()
        gc.set_threshold(_NEW_OBJECTS)
        asked = json.load(sys.stdin)
        try:
            _TASKS[asked["task"]](asked["options"], events)
        except CompilerError as error:
            _tell(events, "failed", error=str(error), exit_code=error.exit_code)
        except (OSError, MemoryError) as error:
            reason = str(error) or f"not enough memory for {asked['options']['model']}"
            _tell(events, "failed", error=reason, exit_code=CompilerError.exit_code)
    gc.freeze()  # or Python searches all objects once more before it ends, for a second
    return 0


def _leave(signum: int, frame: object) -> None:
    """End as an error would: every temporary file and child process is put away."""
    raise SystemExit(128 + signum)


def _leave_memory_to_others() -> None:
    """Let a model that asks for more memory than is free fail, not the machine."""
    free = available_bytes()
    if free is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(free * _MEMORY_SHARE)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _compile(asked: dict[str, Any], events: IO[str]) -> None:
    compiling = _imported("edgec_compiler.compiling")
    options = CompileOptions.from_dict(asked)
    for result in compiling.compile_model(options, partial(_step, events)):
        _tell(events, "result", **asdict(result))


def _rehearse(asked: dict[str, Any], events: IO[str]) -> None:
    compiling = _imported("edgec_compiler.compiling")
    options = CompileOptions.from_dict(asked)
    _tell(events, "result", refused=compiling.rehearse(options, partial(_step, events)))


def _sensitivity(asked: dict[str, Any], events: IO[str]) -> None:
    compiling = _imported("edgec_compiler.compiling")
    options = CompileOptions.from_dict(asked)
    _tell(events, "result", facts=compiling.analyse(options, partial(_step, events)))


def _compare(asked: dict[str, Any], events: IO[str]) -> None:
    comparing = _imported("edgec_compiler.comparing.comparing")
    options = CompareOptions.from_dict(asked)
    found = comparing.compare(options, lambda step: _tell(events, "step", step=step, target=None))
    _tell(events, "result", facts=found)


def _inspect(asked: dict[str, Any], events: IO[str]) -> None:
    _tell(events, "step", step="import", target=None)
    facts = inspect_model(asked["kind"], Path(asked["model"]), None)
    _tell(events, "result", facts=facts)


def _imported(name: str) -> Any:
    """Return the module that does a task. Raises MissingExtraError: it needs `compiler`."""
    gc.disable()  # hardly anything that an import makes is garbage
    try:
        torch, module = import_module("torch"), import_module(name)
    except ImportError as error:
        if error.name is not None and error.name.startswith("edgec"):
            raise
        raise MissingExtraError("compiler", f"compiling (module {error.name})") from error
    gc.freeze()
    gc.enable()
    torch.set_num_threads(1)  # sums are then added in one order on every machine
    return module


_TASKS: dict[str, Callable[[dict[str, Any], IO[str]], None]] = {
    "compile": _compile,
    "compare": _compare,
    "rehearse": _rehearse,
    "sensitivity": _sensitivity,
    "inspect": _inspect,
}


def _step(events: IO[str], step: str, target: str | None) -> None:
    _tell(events, "step", step=step, target=target)


def _tell(events: IO[str], event: str, **facts: Any) -> None:
    events.write(json.dumps({"event": event, **facts}) + "\n")
    events.flush()


if __name__ == "__main__":
    sys.exit(main())
