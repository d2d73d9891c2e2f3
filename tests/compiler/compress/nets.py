"""Small nets to compress: one block of each kind, and captured graphs of them."""

import warnings
from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.nn import functional

from edgec_compiler.composites import recurrent
from edgec_compiler.passes import capture
from edgec_compiler.passes.graph import observe

Example = tuple[torch.Tensor, ...]


def graph_of(module: nn.Module, *example: torch.Tensor) -> fx.GraphModule:
    """Capture `module`; its nodes know their shapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch capturing its own recurrent layers
        graph = capture(module.eval(), example)
    observe(graph, example)
    return graph


class Residual(nn.Module):
    """x + conv(relu(conv(x)))"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.narrow = (
            nn.Conv2d(width, width + 4, 3, padding=1),
            nn.Conv2d(width + 4, width, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(functional.relu(self.wide(x)))


class Depthwise(nn.Module):
    """A depthwise convolution with a multiplier, its own normalisation, and a pointwise one."""

    def __init__(self, width: int, multiplier: int = 2) -> None:
        super().__init__()
        self.filter = nn.Conv2d(width, width * multiplier, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width * multiplier)
        self.mix = nn.Conv2d(width * multiplier, width, 1)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.hardswish(self.mix(self.norm(functional.relu6(self.filter(x)))))


class Grouped(nn.Module):
    """A convolution in two groups between two others, with ReLU's leaky cousin."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.act = nn.PReLU(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.inner(x))


class Concat(nn.Module):
    """Two branches side by side, and the way back to the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(width, 5, 1), nn.Conv2d(width, 6, 3, padding=1)
        self.back = nn.Conv2d(11 + width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.back(torch.cat([self.one(x), functional.gelu(self.other(x)), x], 1)).sigmoid()


class Excite(nn.Module):
    """Squeeze and excitation: a gate per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.up(functional.relu(self.down(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


class Shuffle(nn.Module):
    """Half of the channels pass, the other half is filtered, and both are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filtered = nn.Conv2d(width // 2, width // 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1)
        both = torch.cat([left, functional.silu(self.filtered(right))], 1)
        n, c, h, w = both.shape
        return both.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Rescale(nn.Module):
    """Up by a transposed convolution, down by pooling; a slice of the channels is added back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.part = nn.Conv2d(width // 2, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.max_pool2d(functional.interpolate(self.up(x), scale_factor=0.5), 1)
        return y + self.part(x[:, : x.shape[1] // 2])


BLOCKS = {b.__name__: b for b in (Residual, Depthwise, Grouped, Concat, Excite, Shuffle, Rescale)}


class Net(nn.Module):
    """[1, 3, 8, 8] -> [1, 4]: a stem, blocks, and a head after pooling or flattening."""

    def __init__(self, blocks: Sequence[str], width: int = 8, *, flat: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(BLOCKS[name](width) for name in blocks))
        self.flat = flat
        self.head = nn.Linear(width * 16 if flat else width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(functional.relu(self.stem(x)))
        return self.head(
            y.flatten(1) if self.flat else functional.adaptive_avg_pool2d(y, 1).flatten(1)
        )


IMAGE = (1, 3, 8, 8)


class Encoder(nn.Module):
    """[1, 6, 8] -> [1, 4]: one transformer layer, its attention as torch has it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 24, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).mean(1))


class Recurrent(nn.Module):
    """[1, 5, 6] -> [1, 4]: a GRU between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.gru = nn.Linear(6, 16), nn.GRU(16, 12, batch_first=True)
        self.hidden, self.head = nn.Linear(12, 20), nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.gru(self.before(x).relu())[0][:, -1]).relu())


class OnnxRecurrent(nn.Module):
    """[1, 5, 6] -> [1, 4]: ONNX's GRU and LSTM, each in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.ParameterList(torch.randn(2, 3 * 8, size) for size in (6, 8))
        self.lstm = nn.ParameterList(torch.randn(2, 4 * 8, size) for size in (16, 8))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kinds = ["Sigmoid", "Tanh"] * 2
        y, _ = recurrent.GRU(x.transpose(0, 1), *self.gru, None, None, "bidirectional", kinds, True)
        y = y.transpose(1, 2).flatten(2)
        kinds = ["Sigmoid", "Tanh", "Tanh"] * 2
        nothing = (None, None, None, None)
        y, _, _ = recurrent.LSTM(y, *self.lstm, *nothing, "bidirectional", kinds)
        return self.head(y.transpose(1, 2).flatten(2)[-1])
