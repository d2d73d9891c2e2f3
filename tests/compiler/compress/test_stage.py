"""The stage as a whole, on nets small enough to train in a test."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import IMAGE, Encoder, Net, OnnxRecurrent, Recurrent, graph_of
from torch import fx, nn

from edgec_compiler.compress.constants import values_of
from edgec_compiler.compress.lessons import TrainingData
from edgec_compiler.compress.stage import Surroundings, compress
from edgec_compiler.compress.trainable import Trainable
from edgec_compiler.compress.wanted import Wanted
from edgec_compiler.compress.weights import Masked, learnable, matrices
from edgec_compiler.errors import NotAchievedError, TrainingError, UsageError
from edgec_compiler.interface import Interface

NOTHING = Interface((), (), (), ())


def _data(graph: fx.GraphModule, shape: tuple[int, ...], labels: bool = False) -> TrainingData:
    torch.manual_seed(1)
    x = torch.randn(48, *shape[1:])
    with torch.no_grad():
        classes = Trainable(graph, {})(x).argmax(1)
    return TrainingData((x,), classes if labels else None)


def _quality(graph: fx.GraphModule, made: fx.GraphModule, data: TrainingData) -> Mapping[str, Any]:
    with torch.no_grad():
        a, b = (Trainable(one, {})(*data.inputs) for one in (graph, made))
    return {"accuracy": None, "agreement": float((a.argmax(1) == b.argmax(1)).float().mean())}


def _given(graph: fx.GraphModule, shape: tuple[int, ...], **options: Any) -> Surroundings:
    data = _data(graph, shape, options.pop("labels", False))
    bits, heard = options.pop("bits", 8), options.pop("heard", [])
    return Surroundings(
        wanted=Wanted(**options),
        interface=NOTHING,
        example=(torch.zeros(shape),),
        data=data,
        weight_bits=bits,
        rounds_activations=True,
        per_channel=True,
        seed=0,
        say=heard.append,
        quality=partial(_quality, graph, data=data),
    )


@pytest.fixture(scope="module")
def net() -> fx.GraphModule:
    torch.manual_seed(0)
    return graph_of(Net(["Residual", "Depthwise"], width=16), torch.zeros(IMAGE))


def test_training_brings_a_pruned_net_nearer_to_its_source_and_leaves_the_source(
    net: fx.GraphModule,
) -> None:
    before = {name: value.clone() for name, value in values_of(net).items()}

    made = compress(net, _given(net, IMAGE, prune=0.5, recover_epochs=8))

    facts = made.facts
    phase = facts["training"][0]
    assert phase["loss_after"] < 0.7 * phase["loss_before"]
    assert (phase["by"], phase["labelled"], phase["samples"]) == ("distillation", False, 38)
    assert facts["quality"]["compressed"]["agreement"] >= facts["quality"]["untrained"]["agreement"]
    assert 0.4 < facts["achieved"]["params"] <= 0.5
    assert facts["achieved"]["macs"] > 0.2
    assert made.graph(torch.zeros(IMAGE)).shape == (1, 4)
    assert all(torch.equal(before[name], value) for name, value in values_of(net).items())


def test_labels_are_used_where_there_are_some(net: fx.GraphModule) -> None:
    made = compress(net, _given(net, IMAGE, prune=0.5, recover_epochs=1, labels=True))

    assert made.facts["training"][0]["labelled"]
    assert "--control" in made.facts["compared"]


def test_where_no_channel_can_go_pruning_is_not_achieved() -> None:
    graph = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), torch.zeros(IMAGE))

    for ratio in (0.1, 0.9):
        with pytest.raises(NotAchievedError) as refused:
            compress(graph, _given(graph, IMAGE, prune=ratio))
        assert str(refused.value) == (
            f"--prune {ratio}: no channel can go at this or any other share (1 layer kept whole: "
            "the output keeps its classes): ask for --prune-pattern unstructured"
        )


def test_where_too_little_is_asked_for_to_prune_a_channel_more_is_advised() -> None:
    layers = [nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4)]
    graph = graph_of(nn.Sequential(*layers), torch.zeros(IMAGE))

    with pytest.raises(NotAchievedError, match=r"--prune 0.01: no channel can go .* ask for more"):
        compress(graph, _given(graph, IMAGE, prune=0.01))


def test_equal_seeds_give_equal_weights_and_others_do_not(net: fx.GraphModule) -> None:
    given = _given(net, IMAGE, prune=0.5, cluster=16, recover_epochs=1)

    one, same = (values_of(compress(net, given).graph) for _ in range(2))

    assert one.keys() == same.keys()
    assert all(torch.equal(one[name], same[name]) for name in one)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_stay_through_training_clustering_and_qat(net: fx.GraphModule, pattern: str) -> None:
    options = {"prune": 0.5, "pattern": pattern, "cluster": 32, "qat": True, "recover_epochs": 1}

    made = compress(net, _given(net, IMAGE, **options))

    values, found = values_of(made.graph), matrices(made.graph)
    if pattern == "unstructured":
        zeros = sum(int((values[m.name] == 0).sum()) for m in found)
        assert zeros >= int(0.5 * sum(values[m.name].numel() for m in found))
    else:
        pairs = values["blocks.0.wide.weight"].movedim(1, -1).reshape(-1, 4)
        assert ((pairs == 0).sum(1) >= 2).all()
    assert [phase["phase"] for phase in made.facts["training"]] == [
        *("recovery", "centroids", "quantisation"),
    ]


def test_qat_ends_on_the_grid_of_the_asked_width(net: fx.GraphModule) -> None:
    made = compress(net, _given(net, IMAGE, qat=True, bits=4, recover_epochs=1))

    values = values_of(made.graph)
    for matrix in matrices(made.graph):
        weight, levels = values[matrix.name], 127 if matrix.grouped else 7
        peak = weight.abs().amax([a for a in range(weight.dim()) if a != 0], keepdim=True)
        integers = weight / peak * levels
        assert torch.allclose(integers, integers.round(), atol=1e-3), matrix


def test_qat_for_four_bits_is_nearer_than_rounding_afterwards() -> None:
    torch.manual_seed(0)
    graph = graph_of(Net(["Residual"], width=16), torch.zeros(IMAGE))

    made = compress(graph, _given(graph, IMAGE, qat=True, bits=4, recover_epochs=10))

    phase = made.facts["training"][0]
    assert phase["loss_after"] < 0.8 * phase["loss_before"]


@pytest.mark.parametrize(("module", "shape"), [(Encoder, (1, 6, 8)), (Recurrent, (1, 5, 6))])
def test_other_kinds_of_nets_train_too(module: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    graph = graph_of(module(), torch.zeros(shape))

    made = compress(graph, _given(graph, shape, prune=0.2, recover_epochs=2, qat=True))

    assert 0 < made.facts["achieved"]["params"] <= 0.2
    assert made.graph(torch.zeros(shape)).shape == (1, 4)


def test_a_control_is_the_source_trained_alike(net: fx.GraphModule) -> None:
    made = compress(net, _given(net, IMAGE, prune=0.5, recover_epochs=1, control=True, labels=True))

    assert set(made.facts["quality"]) == {"untrained", "compressed", "control"}
    assert len(made.facts["training"]) == 1


def test_a_trainable_graph_takes_any_batch() -> None:
    torch.manual_seed(0)
    sequence = (1, 5, 6)
    nets = ((Recurrent(), sequence), (OnnxRecurrent(), sequence))
    for module, shape in ((Net(["Shuffle", "Excite"]), IMAGE), *nets):
        graph = graph_of(module, torch.zeros(shape))
        x = torch.randn(7, *shape[1:])
        values = values_of(graph)
        trainable = Trainable(graph, {n: Masked(values[n]) for n in learnable(graph)})

        made = trainable(x)

        singly = torch.cat([graph(x[i : i + 1]) for i in range(7)])
        torch.testing.assert_close(made, singly, rtol=1e-4, atol=1e-5)
        made.sum().backward()
        assert all(p.grad is not None for p in trainable.parameters())


TRAINING = """
import torch

def train(module, teacher):
    print("begins")
    best = torch.optim.SGD(module.parameters(), 0.01)
    x = torch.randn(16, 3, 8, 8)
    loss = (module(x) - teacher(x)).pow(2).mean()
    best.zero_grad()
    loss.backward()
    best.step()

def fails(module, teacher):
    helper()

def helper():
    raise ValueError("no data here")

def gives(module, teacher):
    return 5

def diverges(module, teacher):
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))

def student():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))

def misfit():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(TRAINING)
    return path


def test_the_users_own_training_is_called_and_its_masks_are_kept(
    net: fx.GraphModule, script: Path
) -> None:
    heard: list[str] = []
    options = {"prune": 0.6, "pattern": "unstructured", "fine_tune": f"{script}:train"}

    made = compress(net, _given(net, IMAGE, heard=heard, **options))

    assert "recovery: begins" in heard
    assert made.facts["training"] == [{"phase": "recovery", "by": "function"}]
    assert made.facts["achieved"]["zeros"] >= 0.59
    assert str(script.parent) not in str(made.facts["requested"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", r"mine\.py:17: ValueError: no data here"),
        ("gives", "must return None or the module"),
        ("diverges", "mine.py:diverges leaves weights that are not finite"),
    ],
)
def test_what_fails_in_the_users_training_is_told_with_its_line(
    net: fx.GraphModule, script: Path, function: str, message: str
) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        compress(net, _given(net, IMAGE, prune=0.5, fine_tune=f"{script}:{function}"))

    assert caught.value.exit_code == 1


def test_a_student_learns_from_its_source(net: fx.GraphModule, script: Path) -> None:
    made = compress(net, _given(net, IMAGE, distill=f"{script}:student", recover_epochs=8))

    phase = made.facts["training"][0]
    assert phase["phase"] == "distillation"
    assert phase["loss_after"] < phase["loss_before"]
    assert made.facts["params"]["after"] == 192 * 4 + 4
    assert made.graph(torch.zeros(IMAGE)).shape == (1, 4)


def test_a_student_with_other_outputs_is_refused(net: fx.GraphModule, script: Path) -> None:
    with pytest.raises(UsageError, match=r"outputs are float32 \[1, 5\]; .* float32 \[1, 4\]"):
        compress(net, _given(net, IMAGE, distill=f"{script}:misfit", recover_epochs=1))
