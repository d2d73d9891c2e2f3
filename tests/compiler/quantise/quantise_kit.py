"""What the quantiser's tests share: small models as the compiler holds them."""

import numpy as np
import torch
from torch import nn

from edgec_compiler import judging
from edgec_compiler.forms import Forms
from edgec_compiler.importers.torch_file import describe
from edgec_compiler.interface import Steps, interface_of
from edgec_compiler.samples import Samples
from edgec_compiler.sessions import source_session
from edgec_compiler.variants import Variant
from edgec_hardware_profiles import Profile
from edgec_runtime.data import Data
from edgec_runtime.pipeline import Pipeline

IMAGES = np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)


class Small(nn.Module):
    """A convolution, a residual and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = x + self.second(x)
        return self.last(x.mean((2, 3)))


def forms_of(module: nn.Module, images: np.ndarray = IMAGES, batch: int = 1) -> Forms:
    """Return the forms of `module`, which takes one input, calibrated with `images` [N, ...]."""
    example = torch.from_numpy(images[:batch])
    source = describe(module.eval(), [example], ["x"], "net", "0" * 64, 0)
    with torch.no_grad():
        given = module(example)
    given = given if isinstance(given, tuple) else (given,)
    made = {one.name: x.numpy() for one, x in zip(source.outputs, given, strict=True)}
    interface = interface_of(Steps(), source.inputs, made)
    samples = Samples(Data({"x": images}), "calibration", None)
    return Forms(source, interface, samples, lambda _step: None)


def exact(forms: Forms) -> np.ndarray:
    """Return what the source model answers to the calibration data, [N, ...]."""
    session = source_session(forms.source)
    images = forms.calibration_samples().data.inputs["x"]
    made = [session.run({"x": one[None]}) for one in np.asarray(images)]
    return np.concatenate([next(iter(one.values())) for one in made])


def answers(forms: Forms, profile: Profile, fmt: str, variant: Variant) -> np.ndarray:
    """Return what a variant answers to the calibration data, [N, ...] in float."""
    session = judging.judged_session(variant.payload, fmt, profile)
    runtime = judging.runtime_of(profile, fmt)
    pipeline = Pipeline(judging.draft_manifest(variant.interface, fmt, runtime), session)
    try:
        made = pipeline.infer(forms.calibration_samples().data.inputs)
    finally:
        pipeline.close()
    return next(iter(made.values()))


def error(made: np.ndarray, wanted: np.ndarray) -> float:
    """Return the root of the mean squared error, as a share of the wanted values' spread."""
    return float(np.sqrt(np.square(made - wanted).mean()) / wanted.std())
