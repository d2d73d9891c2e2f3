"""Rewrites of the captured graph, each with a promise that is checked."""

from edgec_compiler.passes.graph import capture
from edgec_compiler.passes.pipeline import PASSES, TFLITE_PASSES, Pass, run_passes

__all__ = ["PASSES", "TFLITE_PASSES", "Pass", "capture", "run_passes"]
