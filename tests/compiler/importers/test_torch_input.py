"""PyTorch as input: exported programs of every form, never unpickled."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgec_compiler.errors import CompilerError, ModelFileError
from edgec_compiler.importers import import_model
from edgec_compiler.importers.torch_file import import_factory


class TwoHeads(nn.Module):
    """A dict of outputs, a buffer, a constant tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.arange(4.0).reshape(1, 4, 1, 1))
        self.two = torch.tensor([2.0])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.conv(x) * self.scale * self.two
        return {"mean": y.mean((2, 3)), "peak": y.amax((2, 3))}


class Pair(nn.Module):
    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> Any:
        return pair[0] + pair[1], [pair[0] * 2]


class Learner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x)
        return result


def _export(path: Path, module: nn.Module, *inputs: Any, **options: Any) -> str:
    torch.export.save(torch.export.export(module, inputs, **options), path)
    return str(path)


def test_a_dict_of_outputs_keeps_its_names_and_free_axes_are_fixed(tmp_path: Path) -> None:
    free = {0: torch.export.Dim("b", min=1, max=64), 2: torch.export.Dim("h", min=8, max=64)}
    example = torch.randn(2, 3, 16, 16)
    file = _export(tmp_path / "m.pt2", TwoHeads().eval(), example, dynamic_shapes={"x": free})

    source = import_model(file, {"x": (1, 3, 20, 16)})

    assert [t.name for t in source.outputs] == ["mean", "peak"]
    assert source.inputs[0].shape == (1, 3, 20, 16)
    with pytest.raises(CompilerError, match="fix it with --shape x=1,3,N,16"):
        import_model(file, {})


def test_nested_inputs_are_taken_one_by_one(tmp_path: Path) -> None:
    pair = (torch.ones(1, 4), torch.ones(1, 4))
    file = _export(tmp_path / "m.pt2", Pair().eval(), pair)

    source = import_model(file, {})

    assert [t.name for t in source.inputs] == ["pair_0", "pair_1"]
    assert source.module is not None
    made = source.module(torch.full((1, 4), 3.0), torch.ones(1, 4))
    assert [one[0, 0].item() for one in made] == [4.0, 6.0]


@pytest.mark.parametrize("learns", [False, True], ids=["buffers", "statistics"])
def test_a_program_exported_in_training_mode_is_refused(tmp_path: Path, learns: bool) -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()) if learns else Learner()
    file = _export(tmp_path / "m.pt2", net.train(), torch.randn(2, 4))

    with pytest.raises(ModelFileError, match=r"call model\.eval\(\) before torch\.export"):
        import_model(file, {})


def test_archives_of_other_torch_kinds_say_what_they_are(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("m/code/__torch__.py", "")
        archive.writestr("m/data.pkl", b"")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pth")

    for name, said in (
        ("script.pt", "a TorchScript archive"),
        ("old.pt2", "export it again with torch 2.8"),
        ("weights.pth", "never unpickled"),
    ):
        with pytest.raises(ModelFileError, match=said):
            import_model(str(tmp_path / name), {})


def test_a_pickle_hidden_in_a_sound_program_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    plain = tmp_path / "m.pt2"
    _export(plain, nn.Linear(2, 2).eval(), torch.ones(1, 2))
    stream = io.BytesIO()
    torch.save(Trap(), stream)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "t.pt2", "w") as new:
        for info in old.infolist():
            mined = info.filename.endswith("sample_inputs/model.pt")
            new.writestr(info, stream.getvalue() if mined else old.read(info))

    with pytest.raises(ModelFileError):
        import_model(str(tmp_path / "t.pt2"), {})
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("inputs", ["(torch.ones(1, WIDTH),)", "torch.ones(1, WIDTH)"])
def test_a_factory_gives_module_and_inputs(inputs: str, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom neighbour import WIDTH\n"
        f"def make():\n    return torch.nn.Linear(WIDTH, 2), {inputs}\n"
    )
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")

    source = import_factory(file, "make", {})

    assert source.inputs[0].shape == (1, 3)
    assert source.size_bytes == 4 * (3 * 2 + 2)


class Written(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, x.new_tensor([[0.0, 1.0]]))


def test_a_tensor_written_in_forward_is_a_constant(tmp_path: Path) -> None:
    x = torch.tensor([[3.0, 4.0]])
    file = _export(tmp_path / "m.pt2", Written(), x)

    source = import_model(file, {})

    assert source.module is not None
    assert source.module(x).tolist() == [[4.0]]


def test_an_error_in_a_factory_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("def make():\n    return int('three')\n")

    with pytest.raises(ModelFileError, match=r"net\.py:make fails: .*net\.py:2: ValueError: "):
        import_factory(file, "make", {})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return x if x.sum() > 0 else -x", r"values of a tensor \(net\.py:5\).*torch\.where"),
        ("return x[: int(x.sum().item())]", r"values of a tensor \(net\.py:5\).*torch\.where"),
        ("return x @ x", r"fails on its example input \(net\.py:5\): RuntimeError"),
    ],
)
def test_a_module_that_cannot_be_traced_is_told_with_its_line(
    body: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "net.py"
    lines = ["import torch", "from torch import nn", "class Net(nn.Module):"]
    lines += ["    def forward(self, x):", f"        {body}"]
    lines += ["def make():", "    return Net(), torch.ones(2, 3)"]
    file.write_text("\n".join(lines))

    with pytest.raises(ModelFileError, match=told):
        import_factory(file, "make", {})


class Reader(nn.Module):
    """A recurrent model as they are written: time first, and layers first in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(4, 5, num_layers=2), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor, state: torch.Tensor, memory: torch.Tensor) -> Any:
        made, (state, memory) = self.cells(x.squeeze(1).permute(2, 0, 1), (state, memory))
        return self.head(made), state, memory


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch on its own LSTM
def test_time_and_state_that_come_first_get_a_batch_axis_before_them(tmp_path: Path) -> None:
    inputs = (torch.rand(1, 1, 4, 6), torch.rand(2, 1, 5), torch.rand(2, 1, 5))
    module = Reader().eval()

    source = import_model(_export(tmp_path / "m.pt2", module, *inputs), {})

    state = (1, 2, 1, 5)
    assert [one.shape for one in source.inputs] == [(1, 1, 4, 6), state, state]
    assert [one.shape for one in source.outputs] == [(1, 6, 1, 3), state, state]
    assert source.notes[0] == "input 'state' has no batch axis: it gets one, and is [1, 2, 1, 5]"
    assert source.module is not None
    with torch.no_grad():
        made = source.module(inputs[0], inputs[1][None], inputs[2][None])
        for found, wanted in zip(made, module(*inputs), strict=True):
            torch.testing.assert_close(found, wanted[None])
