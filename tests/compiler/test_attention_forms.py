"""Attention, and other layers whose results are cut up, as few operators as it takes."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgec_compiler.passes import capture, run_passes

X = torch.rand(1, 6, 8)
HEADS, SIZE = 2, 4


class Calls(nn.Module):
    """A linear layer and what is done with its result."""

    def __init__(self, width: int, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.call = nn.Linear(8, width), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer(x))


def _called(module: nn.Module, *example: Tensor) -> list[str]:
    """Return what a module computes with after all passes, which prove that it is the same."""
    graph = capture(module.eval(), example)
    run_passes(graph, example)
    return [name for name in map(_name, graph.graph.nodes) if name not in ("", "reshape")]


def _name(node: fx.Node) -> str:
    return str(node.target).split(".")[1] if node.op == "call_function" else ""


def _heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], HEADS, SIZE).transpose(1, 2)


def _attended(x: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = map(_heads, x.chunk(3, -1))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _packed(x: Tensor) -> Tensor:
    """Return what vision transformers write: [3, batch, heads, rows, size] taken apart."""
    q, k, v = x.view(*x.shape[:2], 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v, scale=0.25).transpose(1, 2).flatten(2)


PRODUCTS = ["linear"] * 3 + ["matmul", "softmax", "matmul"]


@pytest.mark.parametrize("call", [_attended, _packed])
def test_attention_is_three_layers_and_two_products(call: Callable[[Tensor], Tensor]) -> None:
    found = _called(Calls(24, call), X)

    moved = [name for name in found if name in ("permute", "transpose")]
    assert sorted(name for name in found if name not in (*moved, "flatten")) == sorted(PRODUCTS)
    assert len(moved) == 4  # queries, keys, values, and the result


def test_a_mask_is_added_to_the_scores() -> None:
    mask = torch.triu(torch.full((6, 6), -torch.inf), 1)

    found = _called(Calls(24, lambda x: _attended(x, mask)), X)

    assert found.count("add") == 1
    assert "scaled_dot_product_attention" not in found


def test_torchs_own_attention_cuts_no_result() -> None:
    module = nn.TransformerDecoderLayer(8, HEADS, 16, batch_first=True, dropout=0.0)
    mask = nn.Transformer.generate_square_subsequent_mask(6)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = module

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            made: Tensor = self.layer(x, memory, tgt_mask=mask)
            return made

    found = _called(Decoder(), X, torch.rand(1, 5, 8))

    assert found.count("linear") == 10
    assert not {"select", "slice", "unflatten", "squeeze", "unsqueeze"} & set(found)


@pytest.mark.parametrize(
    ("call", "layers"),
    [(lambda x: torch.sigmoid(x[..., :3]) * x[..., 3:6], 2), (lambda x: x[..., 2:4] + 1, 1)],
    ids=["gate", "one part"],
)
def test_a_layer_is_split_into_the_parts_that_are_read(
    call: Callable[[Tensor], Tensor], layers: int
) -> None:
    found = _called(Calls(7, call), X)

    assert found.count("linear") == layers
    assert "slice" not in found


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.cat([x.relu(), x[..., :2]], -1),
        lambda x: x[..., :4] * x[..., 3:7] + x[..., 2:6],
        lambda x: x[:, 2:5],
    ],
    ids=["read whole, too", "overlapping", "rows"],
)
def test_another_layer_is_left_whole(call: Callable[[Tensor], Tensor]) -> None:
    found = _called(Calls(7, call), X)

    assert found.count("linear") == 1
    assert "slice" in found
