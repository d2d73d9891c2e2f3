"""A channel-last TFLite form has no transposes around what its converter has no form of."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgec_compiler.convert.parity import check_tflite
from edgec_compiler.convert.to_tflite import to_tflite
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_compiler.passes import TFLITE_PASSES, capture, run_passes
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
    run_passes(graph, example, TFLITE_PASSES)
    form = to_tflite(graph, source)
    check_tflite(form, module, source)
    return Counter(one.op for one in read_tflite(form.payload, "net").operators)


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
