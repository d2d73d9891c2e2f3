"""What a net costs on a target, found without training it: it is compiled with random weights.

Neither the size of the file nor the time that it takes depends on what the weights are, so the real
converters and, for Ethos-U, Vela tell both.
"""

import torch
from torch import nn

from edgec_compiler.architecture.candidates import Sizes
from edgec_compiler.errors import ModelFileError
from edgec_compiler.estimating import estimate_payload
from edgec_compiler.forms import Forms
from edgec_compiler.importers.torch_file import describe
from edgec_compiler.interface import Steps, interface_of
from edgec_compiler.mapping.fitting import calibration_inputs, fit_to_target
from edgec_compiler.recipe import Recipe
from edgec_compiler.samples import noise
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import Profile

_BITS = {"int8": 8, "int16x8": 8, "int4": 4, "fp16": 16}


def least_bytes(net: nn.Module, precision: str) -> int:
    """Return what the weights of `net` take at least, at `precision`."""
    return sum(one.numel() for one in net.parameters()) * _BITS.get(precision, 32) // 8


def sizes_of(
    net: nn.Module, example: tuple[torch.Tensor, ...], profile: Profile, precision: str
) -> Sizes:
    """Return what `net` costs on `profile`.

    Raises:
        CompilerError: the net does not become a model for the target.
    """
    names = [f"input_{i}" for i in range(len(example))]
    source = describe(net, list(example), names, "candidate", "0" * 64, 0)
    try:
        with torch.no_grad():
            made = net(*example)
    except Exception as error:  # the user's own code runs here
        raise ModelFileError(f"it does not take what example gives: {error}") from error
    values = [one.numpy() for one in (made if isinstance(made, (tuple, list)) else [made])]
    outputs = {tensor.name: value for tensor, value in zip(source.outputs, values, strict=True)}
    interface = interface_of(Steps(), source.inputs, outputs)
    forms = Forms(source, interface, noise(interface, 0), lambda _: None)
    variant = make_variant(forms, profile, profile.format, Recipe(precision))
    samples = None
    if any(tool.needs_samples for tool in profile.tools):
        samples = calibration_inputs(forms.calibration, variant.interface)
    fitted = fit_to_target(variant.payload, profile.format, profile, "candidate", samples)
    estimate = estimate_payload(variant.payload, profile.format, profile)
    told = fitted.figures.get("inference_ms")
    weights = len(variant.payload) if estimate is None else estimate.weight_bytes
    live = 0 if estimate is None else estimate.activation_bytes
    return Sizes(
        parameters=sum(one.numel() for one in net.parameters()),
        macs=0 if estimate is None else estimate.macs,
        model_bytes=len(fitted.payload),
        # A microcontroller's arena holds more than the activations.
        activation_bytes=int(fitted.figures.get("arena_bytes", live)),
        memory_bytes=weights + live,
        latency_ms=told if told is not None else None if estimate is None else estimate.ms,
        estimated_by="vela" if told is not None else None if estimate is None else "roofline",
    )
