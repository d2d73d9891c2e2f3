"""`edgec evaluate`: how good a bundle or a model is on data."""

import argparse
from pathlib import Path

from edgec_compiler.cli.command import add_json, add_shape, describe, print_json
from edgec_compiler.cli.opening import open_any, say_stand_in
from edgec_runtime.data import Data, load_data
from edgec_runtime.evaluate import evaluate


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec evaluate build --data test.npz", run)
    parser.add_argument("model", metavar="BUNDLE|MODEL")
    parser.add_argument(
        "--data", required=True, metavar="DATA", help=".npz with labels, or a folder of images"
    )
    parser.add_argument("--preprocessing", metavar="STEPS.toml", help="for a model file")
    parser.add_argument("--labels", metavar="FILE", help="for a model file: names of the classes")
    add_shape(parser, "for a model file with free axes: fix an input's shape")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print accuracy and number of samples."""
    given = arguments.model, arguments.preprocessing, arguments.labels
    pipeline = open_any(*given, shapes=arguments.shape)
    say_stand_in(Path(arguments.model))
    try:
        data = load_data(arguments.data, pipeline.labels)
        found = evaluate(pipeline, data)
    finally:
        pipeline.close()
    if arguments.json:
        print_json({"model": arguments.model, "samples": found.samples, "accuracy": found.accuracy})
    elif found.accuracy is None:
        print(f"{arguments.model}: ran on {found.samples} samples; {_why_none(data)}")
    else:
        print(f"{arguments.model}: accuracy {found.accuracy:.4f} on {found.samples} samples")
    return 0


def _why_none(data: Data) -> str:
    if data.labels is None:
        return "no labels, so no accuracy"
    return (
        "no accuracy, since no output names a class that the labels could be compared with (a step "
        "such as argmax, or a meaning, says what it names: --preprocessing)"
    )
