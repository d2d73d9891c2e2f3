"""The child process in which models are opened and compiled: ``python -m edgec_compiler.worker``.

Options come as JSON on stdin; events go as one JSON object per line to the file descriptor that
argv names. Whatever native libraries print goes to stdout and stderr, which the parent keeps as a
log. A library that crashes takes only this process down.
"""

import json
import os
import resource
import sys
from dataclasses import asdict
from typing import IO, Any

from edgec_compiler.errors import CompilerError
from edgec_compiler.options import CompileOptions


def main() -> int:
    """Compile what stdin asks for; always report how it ended."""
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as events:
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        _leave_memory_to_others()
        options = CompileOptions.from_dict(json.load(sys.stdin))
        try:
            _compile(options, events)
        except CompilerError as error:
            _tell(events, "failed", error=str(error), exit_code=error.exit_code)
        except (OSError, MemoryError) as error:
            reason = str(error) or f"not enough memory for {options.model}"
            _tell(events, "failed", error=reason, exit_code=CompilerError.exit_code)
    return 0


def _leave_memory_to_others() -> None:
    """Let a model that asks for more memory than there is fail, not the machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = pages if most == resource.RLIM_INFINITY else min(pages, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _compile(options: CompileOptions, events: IO[str]) -> None:
    try:
        import torch

        from edgec_compiler.compiling import compile_model
    except ImportError as error:
        if error.name is not None and error.name.startswith("edgec"):
            raise
        _tell(events, "missing", module=error.name)
        return
    torch.set_num_threads(1)  # sums are then added in one order on every machine
    for result in compile_model(options, lambda step: _tell(events, "step", step=step)):
        _tell(events, "result", **asdict(result))


def _tell(events: IO[str], event: str, **facts: Any) -> None:
    events.write(json.dumps({"event": event, **facts}) + "\n")
    events.flush()


if __name__ == "__main__":
    sys.exit(main())
