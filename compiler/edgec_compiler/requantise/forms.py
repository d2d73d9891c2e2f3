"""Requantisation of a compile run's forms: which samples, which back end, which file is shipped."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import onnx

from edgec_compiler.convert import fixups
from edgec_compiler.errors import ModelFileError, UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.requantise.base import Base
from edgec_compiler.requantise.layer import Floats, Signature
from edgec_compiler.requantise.onnx_layers import OnnxLayers, OnnxModel
from edgec_compiler.requantise.rebase import (
    MAX_CORRECTING,
    MAX_SAMPLES,
    Data,
    Rebased,
    Wanted,
    rebase,
)
from edgec_compiler.requantise.rows import aligned, row_shares
from edgec_compiler.requantise.tflite_layers import TfliteLayers, TfliteModel
from edgec_compiler.samples import Samples
from edgec_runtime.session import Array

_JUDGED = 3  # without evaluation data every third calibration sample judges instead
Feeder = Callable[[Samples], Iterator[Mapping[str, Array]]]


@dataclass(frozen=True, slots=True)
class Request:
    """What `--delta-base` asks for, for one target."""

    base: Base
    budget: float
    evaluation: Samples
    accept: Callable[[bytes], bool]  # the accuracy gate, on a shipped file


def rebase_tflite(
    forms: Forms, ordinary: bytes, request: Request, *, full_integer: bool
) -> Rebased:
    """Return the int8 TFLite file `ordinary`, as the quantiser made it, near the deployed one."""
    try:
        deployed = TfliteLayers(request.base.payload)
    except ModelFileError as error:
        raise UsageError(f"--delta-base: {error}") from error
    wanted = Wanted(
        request.base,
        request.budget,
        lambda made: fixups.finish(made, forms.source, full_integer=full_integer),
        request.accept,
    )
    model = TfliteModel(forms.tflite().payload, ordinary)
    data = _data(forms, request, forms.tflite_feeds)
    return rebase(model, deployed.layers, data, wanted, partial(model.with_ranges_of, deployed))


def rebase_onnx(
    forms: Forms, exact: onnx.ModelProto, ordinary: onnx.ModelProto, request: Request
) -> Rebased:
    """Return the Q/DQ model `ordinary` of the float model `exact` near the deployed one."""
    try:
        deployed = OnnxLayers(onnx.load_from_string(request.base.payload))
    except Exception as error:  # protobuf's errors share no base class
        raise UsageError("--delta-base: a damaged ONNX file") from error
    wanted = Wanted(request.base, request.budget, bytes, request.accept)
    data = _data(forms, request, forms.onnx_feeds)
    model = OnnxModel(exact, ordinary)
    return rebase(model, deployed.layers, data, wanted, partial(model.with_ranges_of, deployed))


def _data(forms: Forms, request: Request, feeder: Feeder) -> Data:
    calibration = forms.calibration_samples()
    count = len(calibration.data)
    is_split = request.evaluation.origin != "evaluation" and count >= 2 * _JUDGED
    left = [number for number in range(count) if number % _JUDGED or not is_split]
    some = calibration.spread(MAX_CORRECTING, left)

    def rows(layers: Mapping[int, Signature]) -> Mapping[int, Floats]:
        if forms.source.module is None:
            return {}  # a TFLite source has no graph
        return aligned(row_shares(forms.graph(), forms.onnx_feeds(some)), layers)

    def part(judged: bool) -> Iterator[Mapping[str, Array]]:
        for number, sample in enumerate(feeder(calibration)):
            if (number % _JUDGED == 0) == judged:
                yield sample

    correcting, whole = partial(feeder, some), partial(feeder, calibration)
    if request.evaluation.origin == "evaluation":
        judged = partial(feeder, request.evaluation.spread(MAX_SAMPLES))
        return Data(whole, correcting, judged, "evaluation", rows)
    if not is_split:
        return Data(whole, correcting, whole, "calibration", rows)
    return Data(partial(part, False), correcting, partial(part, True), "calibration", rows)
