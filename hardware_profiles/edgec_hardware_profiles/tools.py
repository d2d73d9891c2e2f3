"""Vendor programs that make a target's own binary from the portable model.

A program is run when it is found on PATH; its absence is no error. Steps are argument lists, never
a shell's text; `{name}` in them and in the texts of `files` stands for the places below.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgec_hardware_profiles._fields import Table

# {samples} is an .npy of calibration inputs as the model takes them; _nhwc: channel-last.
PLACEHOLDERS = ("model", "out", "stem", "samples", "samples_nhwc")
KINDS = ("command", "vela", "micro")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,62}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_RESULT = re.compile(r"\*\.[a-z0-9]{1,15}")  # the only file with that suffix
_BRACES = re.compile(r"\{([a-z_]*)\}")


@dataclass(frozen=True, slots=True)
class Tool:
    """One program. `{model}` is the portable file, `{out}` an empty folder that is
    the working directory, `{stem}` the file's name without suffix."""

    name: str
    kind: str  # "command": `steps`; "vela": Arm's compiler; "micro": edgec's own C sources
    program: str | None  # must be on PATH, or nothing is run
    steps: tuple[tuple[str, ...], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # written into {out} before
    result: str | None = None  # what the steps leave in {out}: a file's name, or "*.suffix"
    format: str | None = None  # of the result
    options: Mapping[str, str] = field(default_factory=dict)
    get: str | None = None  # how one gets the program
    source: str | None = None
    timeout_s: int = 600

    @property
    def needs_samples(self) -> bool:
        """Whether its steps speak of calibration samples."""
        texts = (*self.files.values(), *(argument for step in self.steps for argument in step))
        return any("{samples" in text for text in texts)


def read_tools(table: Table) -> tuple[Tool, ...]:
    """Return what the table `[tools]` says. Raises MalformedProfileError."""
    return tuple(_tool(name, table.table(name)) for name in table.names())


def _tool(name: str, table: Table) -> Tool:
    kind = table.choice("kind", KINDS, default="command")
    files = table.table("files", optional=True)
    tool = Tool(
        name=name,
        kind=kind,
        program=table.optional_text("program"),
        steps=tuple(table.text_lists("steps")),
        files=files.strings(),
        result=table.optional_text("result"),
        format=table.optional_text("format"),
        options=table.table("options", optional=True).strings(),
        get=table.optional_text("get"),
        source=table.optional_text("source"),
        timeout_s=table.optional_integer("timeout_s") or 600,
    )
    table.refuse_unread()
    _check(tool, table, files)
    return tool


def _check(tool: Tool, table: Table, files: Table) -> None:
    if not _NAME.fullmatch(tool.name):
        table.fail("program", f"the tool's name must be like {_NAME.pattern}")
    if tool.kind == "command" and not (tool.program and tool.steps and tool.result and tool.format):
        table.fail("program", "a command needs program, steps, result and format")
    if not 1 <= tool.timeout_s <= 86_400:
        table.fail("timeout_s", f"expected 1..86400, got {tool.timeout_s}")
    for file in tool.files:
        if not _FILE.fullmatch(file):
            files.fail(file, "expected a plain file name")
    result = (tool.result or "x").replace("{stem}", "model")
    if not (_FILE.fullmatch(result) or _RESULT.fullmatch(result)):
        table.fail("result", "expected a plain file name, in which {stem} may stand, or *.suffix")
    texts = [
        tool.program or "",
        *tool.files.values(),
        *(arg for step in tool.steps for arg in step),
    ]
    for text in texts:
        for found in _BRACES.findall(text):
            if found not in PLACEHOLDERS:
                table.fail("steps", f"unknown {{{found}}}; known: {', '.join(PLACEHOLDERS)}")
