"""Keeps off stderr what a native library says of itself and nobody asked for."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

# LiteRT says this of every model that it loads, and has no switch for it.
_CHATTER = re.compile(rb"^INFO: Created TensorFlow Lite XNNPACK delegate.*\n?", re.MULTILINE)
_STDERR = 2


@contextmanager
def without_chatter() -> Iterator[None]:
    """Hold stderr back for the time of the block; all of it but the chatter then follows."""
    try:
        real = os.dup(_STDERR)
    except OSError:  # it is closed: nobody hears anything
        yield
        return
    with TemporaryFile() as said:
        sys.stderr.flush()
        os.dup2(said.fileno(), _STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, _STDERR)
            os.close(real)
            said.seek(0)
            with open(_STDERR, "wb", closefd=False) as out:
                out.write(_CHATTER.sub(b"", said.read()))
