"""Rewrites of the captured graph, each with a promise that is checked."""

from edgec_compiler.passes.graph import capture
from edgec_compiler.passes.pipeline import PASSES, Pass, run_passes

__all__ = ["PASSES", "Pass", "capture", "run_passes"]
