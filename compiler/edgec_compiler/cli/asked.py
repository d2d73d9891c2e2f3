"""The options that `edgec compile` and `edgec sensitivity` have in common, as they were given."""

import argparse
from typing import Any

from edgec_compiler.cli.caching import cache_of
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.shapes import parse_shapes
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.naming import model_name
from edgec_compiler.options import CompileOptions


def name_of(arguments: argparse.Namespace, given: str | None = None) -> str:
    """Return the model line: `given`, or by the file's name. Raises UsageError."""
    _, path, _ = kind_of(arguments.model)
    return model_name(given, path.stem)


def options_of(arguments: argparse.Namespace, **own: Any) -> CompileOptions:
    """Return what was asked for, `own` being a command's own options. Raises UsageError."""
    drop = arguments.max_accuracy_drop
    if drop is not None and not 0 <= drop <= 1:
        raise UsageError(f"--max-accuracy-drop: expected a fraction 0..1, got {drop}")
    parse_shapes(arguments.shape)
    return CompileOptions(
        model=arguments.model,
        format=arguments.format,
        shapes=tuple(arguments.shape),
        calibration=arguments.calibration,
        evaluation=arguments.evaluation,
        preprocessing=arguments.preprocessing,
        labels=arguments.labels,
        precision=arguments.precision,
        calibration_method=arguments.calibration_method,
        max_accuracy_drop=drop,
        cache=cache_of(arguments),
        **own,
    )
