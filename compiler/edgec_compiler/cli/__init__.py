"""The command `edgec`."""

from edgec_compiler.cli.main import main

__all__ = ["main"]
