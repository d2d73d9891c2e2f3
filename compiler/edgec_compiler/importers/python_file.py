"""Functions of a user's Python file, FILE.py:FUNCTION."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgec_compiler.errors import ModelFileError, UsageError


@contextmanager
def load_function(path: Path, name: str) -> Iterator[Callable[..., Any]]:
    """Give the function `name` of the file `path`, which finds its neighbours meanwhile.

    Raises:
        UsageError: not a Python file.
        ModelFileError: it has no such function.
        Exception: whatever the file's own code raises.
    """
    spec = importlib.util.spec_from_file_location(f"_edgec_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        call = getattr(module, name, None)
        if not callable(call):
            raise ModelFileError(f"{path}: has no function '{name}'")
        yield call
    finally:
        sys.path.remove(folder)


def where(path: Path, error: Exception) -> str:
    """Return the message of the user's error, with the last line of his file that led to it."""
    said = str(error).strip().partition("\n")[0][:300]
    what = type(error).__name__ + (f": {said}" if said else "")
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}: {what}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [one.lineno for one in frames if Path(one.filename).resolve() == path.resolve()]
    return f"{path}:{own[-1]}: {what}" if own else f"{path}: {what}"
