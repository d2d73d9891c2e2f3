"""The compression options of `edgec compile`, and what is printed of them."""

import argparse
from typing import Any

from edgec_compiler.compress.wanted import MAX_CENTROIDS, MIN_CENTROIDS, PATTERNS, Wanted


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options, as a group of their own."""
    group = parser.add_argument_group(
        "compression", "before conversion; needs an ONNX, PyTorch or Keras model"
    )
    _add_steps(group)
    _add_training(group)


def _add_steps(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prune",
        type=float,
        metavar="RATIO",
        help="remove up to this share of the parameters (0..1); the result tells what was reached",
    )
    group.add_argument(
        "--prune-pattern",
        choices=PATTERNS,
        default=PATTERNS[0],
        help="structured: whole channels go, the model gets smaller and faster (default); "
        "unstructured: single weights become zero; 2:4: two of every four, for sparse tensor cores",
    )
    group.add_argument(
        "--cluster",
        type=int,
        metavar="K",
        help=f"so many distinct weights per layer ({MIN_CENTROIDS}..{MAX_CENTROIDS}): the file "
        "compresses better",
    )
    group.add_argument(
        "--qat",
        action="store_true",
        help="train for the integers of --precision int8 or int4 (worth it for int4)",
    )
    group.add_argument(
        "--distill",
        metavar="STUDENT.py:FACTORY",
        help="compile this smaller torch module instead, trained to answer like MODEL",
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--fine-tune",
        metavar="FILE.py:FUNCTION",
        help="your own training, function(module, teacher), in place of the built-in one, which "
        "learns from MODEL on the --calibration data",
    )
    group.add_argument(
        "--recover-epochs",
        type=int,
        metavar="N",
        help="of the built-in training (default: by the amount of data; 0: none)",
    )
    group.add_argument(
        "--control",
        action="store_true",
        help="train the uncompressed model alike, to see what compression itself costs",
    )


def wanted(arguments: argparse.Namespace) -> Wanted:
    """Return what the options ask for."""
    return Wanted(
        prune=arguments.prune,
        pattern=arguments.prune_pattern,
        cluster=arguments.cluster,
        qat=arguments.qat,
        fine_tune=arguments.fine_tune,
        distill=arguments.distill,
        recover_epochs=arguments.recover_epochs,
        control=arguments.control,
    )


def lines(facts: dict[str, Any]) -> list[str]:
    """Return what to tell people of the "compression" facts."""
    params, macs, achieved = facts["params"], facts["macs"], facts["achieved"]
    told = [
        f"parameters {params['before']} -> {params['after']} (-{achieved['params']:.1%}), "
        f"multiply-accumulates {macs['before']} -> {macs['after']} (-{achieved['macs']:.1%}), "
        f"{achieved['zeros']:.1%} of the weights are zero"
    ]
    file = facts["file"]
    told.append(f"file {file['bytes']} bytes, {file['zstd_bytes']} compressed with zstd")
    told += [_quality(name, one) for name, one in (facts["quality"] or {}).items() if one]
    return [*told, *(f"note: {one}" for one in facts["kept"]), f"compared: {facts['compared']}"]


def _quality(name: str, quality: dict[str, Any]) -> str:
    accuracy = quality["accuracy"]
    told = f"{name}: agrees with the source model on {quality['agreement']:.4f}"
    return told if accuracy is None else f"{told}, accuracy {accuracy:.4f} (float)"
