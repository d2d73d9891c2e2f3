"""What Keras writes along channel-last axes takes the form that the same torch layers have."""

from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from edgec_compiler.convert.parity import check_tflite
from edgec_compiler.convert.to_onnx import serialise, to_onnx
from edgec_compiler.convert.to_tflite import to_tflite
from edgec_compiler.mapping.tflite_graph import read_tflite
from edgec_compiler.passes import PASSES, TFLITE_PASSES, capture, run_passes
from edgec_compiler.source import SourceModel
from edgec_runtime.session import ModelTensor

KERNEL, DEPTH, UP = torch.randn(4, 3, 3, 3), torch.randn(4, 1, 3, 3), torch.randn(4, 5, 3, 3)
SIGNAL = torch.randn(4, 3, 3)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, call: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x)


def _source(call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> SourceModel:
    module = Function(call)
    ends = [ModelTensor(n, "float32", tuple(v.shape)) for n, v in (("x", x), ("y", call(x)))]
    kind = ("keras", "net", "0" * 64, 1)
    return SourceModel(*kind, (ends[0],), (ends[1],), (), module, None, channels_last=True)


def _passed(source: SourceModel, passes: Any = PASSES) -> fx.GraphModule:
    assert source.module is not None
    graph = capture(source.module, source.example())
    run_passes(graph, source.example(), passes)
    return graph


def _called(graph: fx.GraphModule) -> list[str]:
    named = [str(n.target).split(".")[1] for n in graph.graph.nodes if n.op == "call_function"]
    return [name for name in named if name not in ("permute", "reshape")]


def _convolved(x: torch.Tensor, kernel: torch.Tensor, groups: int = 1) -> torch.Tensor:
    made = torch.conv2d(x.permute(0, 3, 1, 2), kernel, groups=groups)
    return made.permute(0, 2, 3, 1)


def _upsampled(x: torch.Tensor) -> torch.Tensor:
    """Return a transposed convolution cut to twice the size, and a batch norm, as of Keras."""
    made = torch.conv_transpose2d(_convolved(x, KERNEL).permute(0, 3, 1, 2), UP, stride=2)
    made = made[:, :, :-1, :-1].permute(0, 2, 3, 1)
    return (made - torch.full((5,), 0.3)) * torch.full((5,), 0.7) + 0.2


IMAGES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]] = {
    "dense": (
        lambda x: (torch.matmul(x.flatten(1), torch.ones(192, 5)) + torch.ones(5)) * 0.5 - 1,
        ["flatten", "linear"],
    ),
    "padding first": (lambda x: _convolved(F.pad(x, (0, 0, 1, 1, 1, 1)), KERNEL), ["conv2d"]),
    "padding between": (
        lambda x: _convolved(F.pad(_convolved(x, KERNEL).relu(), (0, 0, 1, 1, 1, 1)), DEPTH, 4),
        ["conv2d", "relu", "conv2d"],
    ),
    "edges cut off": (
        lambda x: _convolved(_convolved(x, KERNEL)[:, 1:, :-1], DEPTH, 4),
        ["conv2d", "slice", "slice", "conv2d"],
    ),
    "mirrored": (
        lambda x: _convolved(_convolved(x, KERNEL).flip(2), DEPTH, 4),
        ["conv2d", "flip", "conv2d"],
    ),
    "mean": (
        lambda x: _convolved(x, KERNEL).mean((1, 2)),
        ["conv2d", "adaptive_avg_pool2d"],
    ),
    "largest": (
        lambda x: _convolved(x, KERNEL).amax((1, 2), keepdim=True),
        ["conv2d", "max_pool2d"],
    ),
    "enlarged": (_upsampled, ["conv2d", "conv_transpose2d", "slice", "slice"]),
}


@pytest.mark.parametrize(("call", "expected"), IMAGES.values(), ids=IMAGES)
def test_images_have_the_layers_of_channel_first_ones(
    call: Callable[[torch.Tensor], torch.Tensor], expected: list[str]
) -> None:
    graph = _passed(_source(call, torch.rand(1, 8, 8, 3)))

    turned = [n for n in graph.graph.nodes if "permute" in str(n.target)]
    assert _called(graph) == expected
    assert len(turned) <= 2  # at the ends


@pytest.mark.parametrize(
    ("equation", "w", "shape"),
    [
        ("abc,cde->abde", (6, 2, 3), (2, 3)),
        ("abc,cd->abd", (6, 4), (4,)),
        ("abc,bcd->ad", (4, 6, 5), (5,)),
    ],
)
def test_a_sum_over_the_last_axes_is_a_layer_with_its_bias(
    equation: str, w: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    weight, bias = torch.randn(w), torch.randn(shape)

    graph = _passed(
        _source(lambda x: torch.einsum(equation, x, weight) + bias, torch.rand(1, 4, 6))
    )

    assert _called(graph) == ["linear"]


@pytest.mark.parametrize(
    ("equation", "w"),
    [("abc,bcd->abd", (4, 6, 5)), ("abc,cbd->ad", (6, 4, 5)), ("abc,cde->adbe", (6, 2, 3))],
    ids=["a batch of constants", "axes in another order", "a result in another order"],
)
def test_another_sum_is_left_alone(equation: str, w: tuple[int, ...]) -> None:
    weight = torch.randn(w)

    graph = _passed(_source(lambda x: torch.einsum(equation, x, weight), torch.rand(1, 4, 6)))

    assert _called(graph) == ["einsum"]


def test_onnx_gets_a_global_pool_and_no_transpose_but_the_inputs() -> None:
    source = _source(lambda x: _convolved(x, KERNEL).relu().mean((1, 2)), torch.rand(1, 8, 8, 3))

    form = to_onnx(_passed(source), source)

    ops = [node.op_type for node in form.graph.node]
    assert ops[:4] == ["Transpose", "Conv", "Relu", "GlobalAveragePool"]
    assert set(ops[4:]) <= {"Reshape", "Flatten", "Squeeze"}
    (x,) = source.example()
    made = onnxruntime.InferenceSession(serialise(form)).run(None, {"x": x.numpy()})[0]
    assert source.module is not None
    torch.testing.assert_close(torch.from_numpy(made), source.module(x))


def _signal(x: torch.Tensor) -> torch.Tensor:
    """Return what Keras does to [1, 12, 3]: convolve, pad, convolve, repeat, average."""
    x = torch.conv1d(x.permute(0, 2, 1), SIGNAL).permute(0, 2, 1).relu()
    x = torch.conv1d(F.pad(x, (0, 0, 2, 0)).permute(0, 2, 1), SIGNAL.repeat(1, 2, 1)[:, :4])
    x = x.permute(0, 2, 1).unsqueeze(2).expand(-1, -1, 2, -1).reshape(1, 20, 4)
    return x.mean(1)


def test_tflite_turns_nothing_in_a_net_over_rows() -> None:
    source = _source(_signal, torch.rand(1, 12, 3))

    form = to_tflite(_passed(source, (*PASSES, *TFLITE_PASSES)), source)

    ops = [one.op for one in read_tflite(form.payload, "net").operators]
    layers = ["CONV_2D", "PAD", "CONV_2D", "RESIZE_NEAREST_NEIGHBOR", "MEAN"]
    assert [op for op in ops if op != "RESHAPE"] == layers
    assert source.module is not None
    check_tflite(form, source.module, source)
