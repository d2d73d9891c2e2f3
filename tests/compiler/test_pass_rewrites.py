"""Each pass alone: what it makes of the forms that exporters write, and what it leaves alone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from edgec_compiler.importers.importing import import_model
from edgec_compiler.passes import PASSES, TFLITE_PASSES, capture, run_passes
from edgec_compiler.passes.graph import observe
from edgec_compiler.passes.transposes import channel_last_ends

IMAGE, ROWS, SCORES = (1, 4, 6, 6), (2, 3, 8), (2, 6, 6)
VOLUME = (1, 2, 4, 6, 5)
CAUSAL = torch.ones(6, 6, dtype=torch.bool).triu(1)
LEAST = torch.zeros(6, 6).masked_fill(CAUSAL, torch.finfo(torch.float32).min)
NAMED = {one.name: one for one in (*PASSES, *TFLITE_PASSES)}


class Holder(nn.Module):
    """A function over layers and constants that it is given."""

    def __init__(self, call: Callable[..., Any], *parts: Any) -> None:
        super().__init__()
        self.call = call
        self.layers = nn.ModuleList([part for part in parts if isinstance(part, nn.Module)])
        self.values = nn.ParameterList([part for part in parts if not isinstance(part, nn.Module)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x, *self.layers, *self.values)  # type: ignore[no-any-return]


def rewritten(name: str, module: nn.Module, shape: tuple[int, ...]) -> tuple[int, list[str]]:
    """Run one pass; return how many places it rewrote and the operators that are left."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    graph = capture(module.eval(), (x,))
    observe(graph, (x,))
    changed = run_passes(graph, (x,), (NAMED[name],))
    return changed[name], operators(graph)


def operators(graph: fx.GraphModule) -> list[str]:
    calls = [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]
    return [call.split(".")[1] for call in calls if "." in call]  # others only pick from several


def cube(x: torch.Tensor) -> torch.Tensor:
    return x + 0.044715 * x**3


def written_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
    return centred / spread * weight + bias


def bare_norm(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-6)


def written_softmax(x: torch.Tensor) -> torch.Tensor:
    above = torch.exp(x - x.amax(-1, keepdim=True))
    return above / above.sum(-1, keepdim=True)


def shuffled(x: torch.Tensor) -> torch.Tensor:
    return x.view(1, 2, 2, 6, 6).transpose(1, 2).reshape(1, 4, 6, 6)


def shuffled_by_views(x: torch.Tensor) -> torch.Tensor:
    return x.view(1, 2, 2, 6, 6).transpose(1, 2).contiguous().view(1, 4, 6, 6)


def joined_rows(
    x: torch.Tensor, one: nn.Module, other: nn.Module, scale: torch.Tensor
) -> torch.Tensor:
    first, _ = torch.cat([one(x), other(x)], 1).split(4, 1)
    return F.glu(first * scale, 1)


ROOT = math.sqrt(2 / math.pi)
MEAN, GAIN = torch.randn(1, 4, 1, 1), torch.rand(1, 4, 1, 1) + 0.5
ENDLESS, FRAMES = nn.Conv1d(3, 3, 3, padding=2), torch.rand(4, 8) + 0.5
CONV = nn.Conv2d(4, 5, 3)
SCALE, SHIFT = torch.rand(1, 5, 1, 1) + 0.5, torch.randn(5, 1, 1)
BEFORE = torch.rand(1, 4, 1, 1) + 0.5
CASES: dict[str, tuple[str, nn.Module, tuple[int, ...], list[str]]] = {
    "gelu by tanh": (
        "fuse-gelu",
        Holder(lambda x: 0.5 * x * (1 + torch.tanh(ROOT * cube(x)))),
        ROWS,
        ["gelu"],
    ),
    "hard swish, divided": (
        "fuse-hard-swish",
        Holder(lambda x: x * torch.clamp(x + 3, 0, 6) / 6),
        IMAGE,
        ["hardswish"],
    ),
    "hard swish by relu6": (
        "fuse-hard-swish",
        Holder(lambda x: x * (F.relu6(x + 3) * (1 / 6))),
        IMAGE,
        ["hardswish"],
    ),
    "hard sigmoid": (
        "fuse-hard-sigmoid",
        Holder(lambda x: F.hardtanh(3 + x, 0.0, 6.0) / 6),
        IMAGE,
        ["hardsigmoid"],
    ),
    "hard sigmoid by sixths": (
        "fuse-hard-sigmoid",
        Holder(lambda x: torch.clamp(x * (1 / 6) + 0.5, 0, 1)),
        IMAGE,
        ["hardsigmoid"],
    ),
    "softmax": ("fuse-softmax", Holder(written_softmax), ROWS, ["softmax"]),
    "maxima of a wanted size": (
        "window-maxima",
        Holder(lambda x: F.adaptive_max_pool2d(x, 3)),
        IMAGE,
        ["max_pool2d"],
    ),
    "maxima of volumes": (
        "slice-volumes",
        Holder(lambda x: F.max_pool3d(x, (2, 3, 2), (2, 2, 1), (1, 1, 0))),
        VOLUME,
        ["reshape", "max_pool2d", "reshape", "max_pool2d", "reshape"],
    ),
    "averages of volumes": (
        "slice-volumes",
        Holder(lambda x: F.avg_pool3d(x, 2)),
        VOLUME,
        ["reshape", "avg_pool2d", "reshape", "avg_pool2d", "reshape"],
    ),
    "batch norm as Keras writes it": (
        "merge-scales",
        Holder(lambda x, m, s, t: (F.relu(x) - m) * s + t, MEAN, GAIN, MEAN),
        IMAGE,
        ["relu", "mul", "add"],
    ),
    "numbers that cancel": (
        "merge-scales",
        Holder(lambda x: 3 - (1 - x / 4) * 2),
        IMAGE,
        ["mul", "add"],
    ),
    "a product and a sum by channel": (
        "scales-as-layers",
        Holder(lambda x, s, t: F.relu(x) * s + t, GAIN, MEAN),
        IMAGE,
        ["relu", "conv2d"],
    ),
    "a causal convolution and its shortcut": (
        "rows-as-images",
        Holder(lambda x, conv: F.relu(conv(F.pad(x, (2, 0)))) + x, nn.Conv1d(3, 3, 3)),
        ROWS,
        ["pad", "reshape", "conv2d", "relu", "reshape", "add", "reshape"],
    ),
    "a convolution whose end is cut off": (
        "rows-as-images",
        Holder(lambda x, conv: conv(x)[:, :, :-2].mean(-1, keepdim=True), ENDLESS),
        ROWS,
        ["reshape", "conv2d", "slice", "mean", "reshape"],
    ),
    "convolutions that are joined, split, and gated": (
        "rows-as-images",
        Holder(joined_rows, nn.Conv1d(3, 4, 3, padding="same"), nn.Conv1d(3, 4, 1), FRAMES),
        ROWS,
        ["reshape", "conv2d", "reshape", "conv2d", "cat", "split", "mul", "glu", "reshape"],
    ),
    "pools of rows": (
        "rows-as-images",
        Holder(lambda x: F.avg_pool1d(F.max_pool1d(x, 3, 1, 1), 2)),
        ROWS,
        ["reshape", "max_pool2d", "avg_pool2d", "reshape"],
    ),
    "rows that are widened": (
        "rows-as-images",
        Holder(lambda x, conv: torch.tanh(conv(x)), nn.ConvTranspose1d(3, 2, 4, 2, 1)),
        ROWS,
        ["reshape", "conv_transpose2d", "tanh", "reshape"],
    ),
    "layer norm": (
        "fuse-layer-norm",
        Holder(written_norm, torch.rand(8), torch.randn(8)),
        ROWS,
        ["layer_norm"],
    ),
    "layer norm without constants": ("fuse-layer-norm", Holder(bare_norm), ROWS, ["layer_norm"]),
    "two transposes": (
        "merge-transposes",
        Holder(lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2).exp()),
        IMAGE,
        ["relu", "exp"],
    ),
    "transposes around a sum with a constant": (
        "merge-transposes",
        Holder(lambda x, c: (x.transpose(1, 2) * 2 + c).transpose(1, 2).exp(), torch.randn(3)),
        ROWS,
        ["mul", "add", "exp"],
    ),
    "transposes around a concatenation": (
        "merge-transposes",
        Holder(lambda x: torch.cat([x.mT.relu(), x.mT.exp()], 2).mT.neg()),
        ROWS,
        ["relu", "exp", "cat", "neg"],
    ),
    "a transpose of axes of 1": (
        "merge-transposes",
        Holder(lambda x: x.transpose(0, 1).exp()),
        (1, 3, 8),
        ["reshape", "exp"],
    ),
    "a maximum over the image": (
        "reduce-by-pool",
        Holder(lambda x: x.amax((2, 3)).exp()),
        IMAGE,
        ["max_pool2d", "reshape", "exp"],
    ),
    "constants behind a layer": (
        "fold-scales",
        Holder(lambda x, conv, a, b: (conv(x) * a + b - 1) / 2, CONV, SCALE, SHIFT),
        IMAGE,
        ["conv2d"],
    ),
    "constants before a layer": (
        "fold-scales",
        Holder(lambda x, conv, a: conv((x - 3) * a), CONV, BEFORE),
        IMAGE,
        ["conv2d"],
    ),
    "constants around a linear layer": (
        "fold-scales",
        Holder(lambda x, layer, a: layer(2 * x + a) * 0.5, nn.Linear(8, 3), torch.randn(8)),
        ROWS,
        ["linear"],
    ),
    "constants behind a transposed layer": (
        "fold-scales",
        Holder(lambda x, c, a: c(x) * a, nn.ConvTranspose2d(4, 5, 2, bias=False), SCALE),
        IMAGE,
        ["conv_transpose2d"],
    ),
    "zeros around an image": (
        "fold-padding",
        Holder(lambda x, conv: conv(F.pad(x, (1, 1, 2, 2))), CONV),
        IMAGE,
        ["conv2d"],
    ),
    "zeros around a signal": (
        "fold-padding",
        Holder(lambda x, conv: conv(F.pad(x, (2, 2))), nn.Conv1d(3, 2, 3, padding=1)),
        ROWS,
        ["conv1d"],
    ),
    "zeros before an average": (
        "fold-padding",
        Holder(lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3)),
        IMAGE,
        ["avg_pool2d"],
    ),
    "normalisation behind a transposed layer": (
        "fold-batch-norm",
        nn.Sequential(nn.ConvTranspose2d(4, 3, 2, 2), nn.BatchNorm2d(3)),
        IMAGE,
        ["conv_transpose2d"],
    ),
    "neutral numbers": (
        "drop-identities",
        Holder(lambda x: torch.cat([(1 * x + 0) / 1 - 0]).exp()),
        ROWS,
        ["exp"],
    ),
    "reshapes in a row": (
        "drop-identities",
        Holder(lambda x: x.reshape(6, 8).reshape(-1).reshape(2, 24)),
        ROWS,
        ["reshape"],
    ),
    "a pixel shuffle": (
        "convolve-shuffles",
        Holder(lambda x: F.pixel_shuffle(x, 2)),
        IMAGE,
        ["conv_transpose2d"],
    ),
    "a pixel unshuffle": (
        "convolve-shuffles",
        Holder(lambda x: F.pixel_unshuffle(x, 3)),
        IMAGE,
        ["conv2d"],
    ),
    "a channel shuffle": ("convolve-shuffles", Holder(shuffled), IMAGE, ["conv2d"]),
    "a copy for the sake of a view": (
        "drop-identities",
        Holder(shuffled_by_views),
        IMAGE,
        ["reshape", "transpose", "reshape"],
    ),
    "prelu": ("write-prelus", nn.PReLU(4), IMAGE, ["relu", "neg", "relu", "mul", "sub"]),
    "one over a root, between them another shape": (
        "write-curves",
        Holder(lambda x: (x.exp().sum(1) + 1).sqrt().reciprocal().unsqueeze(1)),
        ROWS,
        ["exp", "sum", "add", "rsqrt", "unsqueeze"],
    ),
    "a quotient by a root that is shaped before": (
        "write-curves",
        Holder(lambda x: x / (x.exp().sum(1) + 1).sqrt().unsqueeze(1)),
        ROWS,
        ["exp", "sum", "add", "rsqrt", "unsqueeze", "mul"],
    ),
    "leaky relu": ("write-prelus", nn.LeakyReLU(0.1), IMAGE, ["mul", "maximum"]),
    "a transposed convolution that pads": (
        "cut-transposed",
        nn.ConvTranspose2d(4, 5, 3, stride=2, padding=1, output_padding=1),
        IMAGE,
        ["conv_transpose2d", "slice", "slice"],
    ),
    "one with zeros between its weights and behind its result": (
        "cut-transposed",
        nn.ConvTranspose2d(4, 6, 2, stride=3, output_padding=(1, 0), groups=2, dilation=2),
        IMAGE,
        ["conv_transpose2d", "constant_pad_nd", "add"],
    ),
    "a transposed convolution of a signal": (
        "cut-transposed",
        nn.ConvTranspose1d(3, 5, 10, stride=5, padding=2, bias=False),
        ROWS,
        ["conv_transpose1d", "slice"],
    ),
    "squares and roots of five axes": (
        "lower-powers",
        Holder(lambda x: x.reshape(1, 2, 2, 6, 6).square().mul(2).pow(0.5)),
        IMAGE,
        ["reshape", "mul", "mul", "reshape", "pow", "reshape"],
    ),
    "a softmax over channels": (
        "move-softmax-axes",
        nn.Softmax(1),
        IMAGE,
        ["permute", "softmax", "permute"],
    ),
    "the logarithm of one over the axis before the last": (
        "move-softmax-axes",
        nn.LogSoftmax(-2),
        ROWS,
        ["permute", "log_softmax", "permute"],
    ),
    "minus infinity where a mask is": (
        "bound-masks",
        Holder(lambda x: x.masked_fill(CAUSAL, -math.inf).softmax(-1)),
        SCORES,
        ["masked_fill", "softmax"],
    ),
    "the least of numbers, added to what is masked": (
        "bound-masks",
        Holder(lambda x, mask: (x + mask.unsqueeze(0)).softmax(-1), LEAST),
        SCORES,
        ["unsqueeze", "add", "softmax"],
    ),
    "causal attention": (
        "bound-masks",
        Holder(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
        SCORES,
        ["scaled_dot_product_attention"],
    ),
    "attention under a mask of booleans": (
        "bound-masks",
        Holder(lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x > x.mean())),
        SCORES,
        ["mean", "gt", "where", "scaled_dot_product_attention"],
    ),
    "a padded maximum behind relu": (
        "zero-padded-maxima",
        Holder(lambda x: F.max_pool2d(F.relu(x), 3, 2, 1)),
        IMAGE,
        ["relu", "constant_pad_nd", "max_pool2d"],
    ),
    "minus infinity before a maximum behind relu": (
        "zero-padded-maxima",
        Holder(lambda x: F.max_pool2d(F.pad(F.relu(x), (0, 1, 0, 1), value=-math.inf), 3, 2)),
        IMAGE,
        ["relu", "constant_pad_nd", "max_pool2d"],
    ),
    "minus infinity around a maximum, as SAME pads": (
        "same-padded-maxima",
        Holder(lambda x: F.max_pool2d(F.pad(x, (0, 1, 1, 2), value=-math.inf), (5, 3), 2)),
        IMAGE,
        ["max_pool2d"],
    ),
    "copies of the edge around a maximum, as SAME pads": (
        "same-padded-maxima",
        Holder(lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), "replicate"), 3, 2)),
        IMAGE,
        ["max_pool2d"],
    ),
    "a padded maximum of any values": (
        "edge-padded-maxima",
        Holder(lambda x: F.max_pool2d(x, 3, 2, 1)),
        IMAGE,
        ["slice", "cat", "slice", "cat", "max_pool2d"],
    ),
    "a maximum whose windows reach beyond the end by more than half": (
        "edge-padded-maxima",
        Holder(lambda x: F.max_pool2d(x, 5, 4, 1, ceil_mode=True)),
        (1, 4, 8, 8),
        ["slice", "slice", "cat", "slice", "slice", "cat", "max_pool2d"],
    ),
    "minus infinity before a maximum, and its own padding": (
        "edge-padded-maxima",
        Holder(lambda x: F.max_pool2d(F.pad(x, (0, 1, 1, 0), value=-math.inf), 3, 1, 1)),
        IMAGE,
        ["slice", "slice", "cat", "slice", "slice", "cat", "max_pool2d"],
    ),
    "minus infinity that no window reaches": (
        "edge-padded-maxima",
        Holder(lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2, 2)),
        IMAGE,
        ["max_pool2d"],
    ),
}


@pytest.mark.parametrize(("name", "module", "shape", "left"), CASES.values(), ids=CASES)
def test_a_pass_rewrites_the_form_and_changes_no_value(
    name: str, module: nn.Module, shape: tuple[int, ...], left: list[str]
) -> None:
    found, made = rewritten(name, module, shape)

    assert found >= 1
    assert [op.removesuffix("_") for op in made] == left


PADDED = nn.Conv2d(4, 5, 3, padding=1)
ALONE: dict[str, tuple[str, nn.Module, tuple[int, ...]]] = {
    "a chain that is as short as can be": ("merge-scales", Holder(lambda x: x * 2 + 1), IMAGE),
    "a chain that something else reads within": (
        "merge-scales",
        Holder(lambda x: ((y := (x - 1) * 2) + 3) * y),
        IMAGE,
    ),
    "a sum that differs within a channel": (
        "scales-as-layers",
        Holder(lambda x, t: x * 2 + t, torch.rand(6, 6)),
        IMAGE,
    ),
    "volumes whose padding is averaged": (
        "slice-volumes",
        Holder(lambda x: F.avg_pool3d(x, 2, padding=1)),
        VOLUME,
    ),
    "volumes that are rounded up": (
        "slice-volumes",
        Holder(lambda x: F.max_pool3d(x, 2, ceil_mode=True)),
        VOLUME,
    ),
    "rows that no layer reads": ("rows-as-images", Holder(lambda x: F.pad(x, (2, 0))), ROWS),
    "maxima of windows of two sizes": (
        "window-maxima",
        Holder(lambda x: F.adaptive_max_pool2d(x, 4)),
        IMAGE,
    ),
    "a transposed convolution of as much padding on all sides": (
        "cut-transposed",
        nn.ConvTranspose2d(4, 5, 4, stride=2, padding=1),
        IMAGE,
    ),
    "masked scores that something else reads, too": (
        "bound-masks",
        Holder(lambda x: (scores := x.masked_fill(CAUSAL, -1e9)).softmax(-1) + scores),
        SCORES,
    ),
    "an addition before a layer that pads": (
        "fold-scales",
        Holder(lambda x, conv: conv(x + 1), PADDED),
        IMAGE,
    ),
    "a constant per row": (
        "fold-scales",
        Holder(lambda x, conv, a: conv(x) * a, PADDED, torch.rand(6, 1)),
        IMAGE,
    ),
    "a layer with another reader": (
        "fold-scales",
        Holder(lambda x, conv: (lambda y: y * 2 + y.exp())(conv(x)), PADDED),
        IMAGE,
    ),
    "one minus a layer": ("fold-scales", Holder(lambda x, conv: 1 - conv(x), PADDED), IMAGE),
    "uneven zeros": ("fold-padding", Holder(lambda x, c: c(F.pad(x, (0, 1, 0, 1))), CONV), IMAGE),
    "ones around an image": (
        "fold-padding",
        Holder(lambda x, c: c(F.pad(x, (1, 1, 1, 1), value=1.0)), CONV),
        IMAGE,
    ),
    "another constant in a hard swish": (
        "fuse-hard-swish",
        Holder(lambda x: x * torch.clamp(x + 2, 0, 6) / 6),
        IMAGE,
    ),
    "a softmax over other values": (
        "fuse-softmax",
        Holder(lambda x: torch.exp(x) / torch.exp(x).sum(-1, keepdim=True).add(1)),
        ROWS,
    ),
    "a norm over another axis": (
        "fuse-layer-norm",
        Holder(lambda x: (x - x.mean(1, True)) / (x.pow(2).mean(1, True) + 1e-5).sqrt()),
        ROWS,
    ),
    "a transpose that is read twice": (
        "merge-transposes",
        Holder(lambda x: (lambda y: y.relu() + y.flatten(1).sum())(x.mT)),
        ROWS,
    ),
    "a leaky relu that is steeper below": ("write-prelus", nn.LeakyReLU(1.5), IMAGE),
    "a padded maximum of any values": (
        "zero-padded-maxima",
        Holder(lambda x: F.max_pool2d(x, 3, 2, 1)),
        IMAGE,
    ),
    "a maximum that pads as SAME does not": (
        "same-padded-maxima",
        Holder(lambda x: F.max_pool2d(F.pad(x, (1, 0, 1, 0), "replicate"), 3, 2)),
        IMAGE,
    ),
    "a maximum of windows that read copies of the edge alone": (
        "edge-padded-maxima",
        Holder(lambda x: F.max_pool2d(F.pad(x, (2, 2, 2, 2), "replicate"), 2, 2)),
        IMAGE,
    ),
    "a maximum of as many values as it reads": (
        "edge-padded-maxima",
        Holder(lambda x: F.max_pool2d(x, 3, 1, 1)),
        IMAGE,
    ),
    "a maximum that halves as TFLite does": (
        "edge-padded-maxima",
        Holder(lambda x: F.max_pool2d(x, 3, 2, 1)),
        (1, 4, 7, 7),
    ),
}


def test_a_matrix_that_steps_share_is_held_once() -> None:
    x, module = torch.randn(2, 4), Holder(lambda x, w: (x @ w).tanh() @ w, torch.randn(4, 4))
    graph = capture(module, (x,))
    observe(graph, (x,))

    run_passes(graph, (x,), (NAMED["products-as-layers"],))

    layers = [node for node in graph.graph.nodes if "linear" in str(node.target)]
    assert len(layers) == 2
    assert len({node.args[1].target for node in layers}) == 1


@pytest.mark.parametrize(("name", "module", "shape"), ALONE.values(), ids=ALONE)
def test_what_a_pass_leaves_alone(name: str, module: nn.Module, shape: tuple[int, ...]) -> None:
    assert rewritten(name, module, shape)[0] == 0


WRITTEN = {
    "fuse-hard-swish": """g (float[1, 4] x) => (float[1, 4] y)
        <float three = {3.0}, float low = {0.0}, float high = {6.0}, float six = {6.0}>
        { a = Add(x, three)  b = Clip(a, low, high)  c = Mul(x, b)  y = Div(c, six) }""",
    "fuse-gelu": """g (float[1, 4] x) => (float[1, 4] y)
        <float root = {1.4142135}, float one = {1.0}, float half = {0.5}>
        { a = Div(x, root)  b = Erf(a)  c = Add(b, one)  d = Mul(x, c)  y = Mul(d, half) }""",
    "fuse-layer-norm": """g (float[1, 2, 4] x) => (float[1, 2, 4] y)
        <float two = {2.0}, float eps = {0.00001}, float[4] scale = {1.0, 2.0, 3.0, 4.0},
         float[4] shift = {0.5, 0.0, -1.0, 2.0}>
        { m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  p = Pow(d, two)
          v = ReduceMean <axes = [-1]> (p)  e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)
          s = Mul(n, scale)  y = Add(s, shift) }""",
    "fuse-softmax": """g (float[1, 2, 4] x) => (float[1, 2, 4] y)
        { m = ReduceMax <axes = [-1]> (x)  d = Sub(x, m)  e = Exp(d)
          s = ReduceSum <axes = [-1]> (e)  y = Div(e, s) }""",
}


@pytest.mark.parametrize(("name", "text"), WRITTEN.items(), ids=WRITTEN)
def test_what_onnx_exporters_write_out_is_fused(name: str, text: str, tmp_path: Path) -> None:
    opset = 11 if "ReduceSum" in text else 13
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    onnx.save(model, tmp_path / "m.onnx")
    source = import_model(str(tmp_path / "m.onnx"), {})
    assert source.module is not None
    graph = capture(source.module, source.example())

    assert run_passes(graph, source.example())[name] == 1
    assert len(operators(graph)) == 1


def test_ends_that_the_model_turns_itself_are_channel_last_already() -> None:
    def of_tensorflow(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
        return conv((x - 0.5).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]

    x = torch.randn(1, 4, 4, 4)
    graph, plain = capture(Holder(of_tensorflow, CONV), (x,)), capture(CONV, (x,))
    observe(graph, (x,)), observe(plain, (x,))

    assert channel_last_ends(graph) == (frozenset({0}), frozenset({0}))
    assert channel_last_ends(plain) == (frozenset(), frozenset())


@pytest.mark.parametrize(("_name", "module", "shape", "_left"), CASES.values(), ids=CASES)
def test_in_order_the_passes_change_no_value_and_leave_nothing_for_a_second_run(
    _name: str, module: nn.Module, shape: tuple[int, ...], _left: list[str]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    graph = capture(module.eval(), (x,))
    run_passes(graph, (x,), (*PASSES, *TFLITE_PASSES))

    assert set(run_passes(graph, (x,), (*PASSES, *TFLITE_PASSES)).values()) == {0}
    with torch.no_grad():
        torch.testing.assert_close(graph(x), module(x), rtol=1e-4, atol=1e-5)
