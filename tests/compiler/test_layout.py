"""A channel-last TFLite form has no transposes around what its converter has no form of."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgec_compiler.convert.parity import check_tflite
from edgec_compiler.convert.to_tflite import to_tflite
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_compiler.passes import PASSES, TFLITE_PASSES, capture, run_passes
from edgec_compiler.source import SourceModel
from edgec_runtime.session import ModelTensor


class Residual(nn.Module):
    """A layer that halves the image, beside a shortcut that does, too."""

    def __init__(self, pads: tuple[int, ...], value: float) -> None:
        super().__init__()
        self.pads, self.value = pads, value
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.layer = nn.Conv2d(4 + sum(pads[4:]), 6, 3, stride=2)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        return self.layer(F.pad(x, self.pads, value=self.value)) + self.shortcut(x)


def _operators(module: nn.Module) -> Counter[str]:
    torch.manual_seed(0)
    inputs = (ModelTensor("x", "float32", (1, 3, 8, 8)),)
    outputs = (ModelTensor("y", "float32", (1, 6, 4, 4)),)
    source = SourceModel("torch", "net", "0" * 64, 1, inputs, outputs, (), module.eval(), None)
    example: tuple[Any, ...] = source.example()
    graph = capture(module, example)
    run_passes(graph, example, (*PASSES, *TFLITE_PASSES))
    form = to_tflite(graph, source)
    check_tflite(form, module, source)
    return Counter(one.op for one in read_tflite(form.payload, "net").operators)


class Between(nn.Module):
    """What stands between two layers."""

    def __init__(self, call: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.call = call
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.pad(self.call(self.first(x)), (0, 1, 0, 1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "call",
    [
        F.elu,
        F.normalize,
        lambda x: x - x.amin(1, keepdim=True),
        lambda x: torch.roll(x, (1, 2), (2, 3)),
        lambda x: x[:, :, :4, :2].repeat(1, 1, 2, 4),
        lambda x: x * torch.sigmoid(F.adaptive_max_pool2d(x, 1)),
        lambda x: F.one_hot(x.argmax(1), 4).permute(0, 3, 1, 2) * x,
    ],
    ids=["elu", "normalize", "amin", "roll", "repeat", "gate", "one-hot"],
)
def test_what_stands_between_layers_is_converted(
    call: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    assert _operators(Between(call))["CONV_2D"] == 2


def test_padding_as_tensorflow_halves_images_is_the_convolutions_own() -> None:
    assert _operators(Residual((0, 1, 0, 1), 0.0)) == {"CONV_2D": 3, "ADD": 1}


@pytest.mark.parametrize(
    ("pads", "value"),
    [((1, 0, 1, 0), 0.0), ((0, 1), 0.0), ((0, 1, 0, 1), -2.0), ((0, 1, 0, 1, 1, 0), 0.0)],
    ids=["before", "one axis", "another value", "channels, too"],
)
def test_other_padding_is_an_operator_without_transposes(
    pads: tuple[int, ...], value: float
) -> None:
    if len(pads) == 2:
        pads = (*pads, 1, 1)
    found = _operators(Residual(pads, value))

    assert found["TRANSPOSE"] == 0
    assert found["PAD"] + found["PADV2"] == 1
