"""A converted form that computes something else than its source is refused, whatever made it."""

import pytest
import torch
from torch import nn

from edgec_compiler.convert.parity import check_onnx, check_tflite
from edgec_compiler.convert.to_onnx import serialise, to_onnx
from edgec_compiler.convert.to_tflite import to_tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.passes import capture
from edgec_compiler.source import SourceModel
from edgec_runtime.session import ModelTensor


class Signed(nn.Module):
    """An image layer whose result is taken from one, or the other way round."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.layer = nn.Conv2d(2, 3, 3, padding=1)
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.constant_(self.layer.bias, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sign * self.layer(x) + 0.25


def _source(module: nn.Module) -> SourceModel:
    inputs = (ModelTensor("x", "float32", (1, 2, 6, 5)),)
    outputs = (ModelTensor("y", "float32", (1, 3, 6, 5)),)
    return SourceModel("torch", "signed", "0" * 64, 1, inputs, outputs, (), module, None)


@pytest.mark.parametrize("fmt", ["onnx", "tflite"])
def test_only_the_form_of_the_same_function_is_accepted(fmt: str) -> None:
    source = _source(Signed(1.0).eval())
    graph = capture(source.module, source.example())
    if fmt == "onnx":
        made = serialise(to_onnx(graph, source))

        def check(module: nn.Module) -> None:
            check_onnx(made, module, source)
    else:
        form = to_tflite(graph, source)

        def check(module: nn.Module) -> None:
            check_tflite(form, module, source)

    check(source.module)
    with pytest.raises(ConversionError, match="computes something else: output 'y' is off by"):
        check(Signed(-1.0).eval())


class Bounded(nn.Module):
    """One value between several bounds, which the exporter's optimiser mixes up."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x * 10).floor().repeat(1, 2, 1, 1)[:, :3]
        return x.clamp(0, 3) + x.clamp(1, 5) + x.clamp(2, 9)


def test_a_value_that_is_clipped_in_several_ways_keeps_all_bounds() -> None:
    source = _source(Bounded().eval())
    graph = capture(source.module, source.example())

    made = to_onnx(graph, source)

    check_onnx(serialise(made), source.module, source)
