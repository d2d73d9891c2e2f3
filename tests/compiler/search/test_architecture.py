"""`edgec search`: halving keeps the better half, what breaks a limit is not trained, it resumes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compiler_kit import PROGRAM, edgec
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgec_bundle.archive import open_bundle
from edgec_compiler.architecture import Found, SearchOptions, search
from edgec_compiler.architecture.candidates import (
    Candidate,
    Limits,
    Sizes,
    grid,
    pareto,
    without_twins,
)
from edgec_compiler.architecture.children import ask
from edgec_compiler.architecture.halving import (
    affordable,
    epochs_of,
    promising,
    ranked,
    rounds,
    survivors,
)
from edgec_compiler.architecture.protocol import RecipeFile
from edgec_compiler.architecture.searching import LimitsMissedError
from edgec_compiler.cli import main
from edgec_compiler.errors import (
    ConversionError,
    ModelFileError,
    NotAchievedError,
    UsageError,
)
from edgec_compiler.isolated import RemoteError
from edgec_hardware_profiles import load

RECIPE = """
import torch
from pathlib import Path
from torch import nn

WIDTHS, DEPTHS = (0.5, 1.0, 64.0), (1.0,)
TRAINED = Path(__file__).with_name("trained.txt")

def build(width, depth):
    inner = int(8 * width)
    return nn.Sequential(nn.Linear(4, inner), nn.ReLU(), nn.Linear(inner, 2))

def example():
    return torch.zeros(1, 4)

def train(module, seed, epochs):
    with TRAINED.open("a") as log:
        log.write(f"{module[0].out_features} {epochs}\\n")
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))
    steps = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(epochs):
        steps.zero_grad()
        nn.functional.cross_entropy(module(x), (x[:, 0] > 0).long()).backward()
        steps.step()
    return module

def evaluate(module):
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(99))
    return float((module(x).argmax(1) == (x[:, 0] > 0)).float().mean())
"""

ONE = RECIPE.replace("(0.5, 1.0, 64.0)", "(1.0,)")


def _sizes(macs: int, latency: float | None = 1.0) -> Sizes:
    return Sizes(macs, macs, macs, macs, macs, latency, "roofline")


def test_equal_nets_are_tried_once() -> None:
    narrow, same, wide = (Candidate(w, 1.0) for w in (0.5, 0.6, 1.0))

    assert without_twins({same: _sizes(5), wide: _sizes(9), narrow: _sizes(5)}) == (narrow, wide)


def test_a_net_over_limits_says_which_and_by_how_much() -> None:
    limits = Limits(latency_ms=0.5, memory_bytes=100)
    micro = Limits(activation_bytes=10, model_bytes=20)

    assert limits.broken_by(_sizes(100, 0.5)) is None
    assert limits.broken_by(_sizes(101, 0.5)) == "needs 101 bytes of memory, allowed are 100"
    assert limits.broken_by(_sizes(101)) == (
        "needs 101 bytes of memory, allowed are 100; takes 1.000 ms, allowed are 0.5"
    )
    assert micro.broken_by(_sizes(21)) == (
        "needs 21 bytes for activations, allowed are 10; its file has 21 bytes, allowed are 20"
    )


def test_a_device_is_a_limit_of_its_own() -> None:
    micro, board = load("cortex-m7"), load("rpi-zero2w")

    assert Limits(model_bytes=100).within(micro) == Limits(
        activation_bytes=micro.memory_bytes, model_bytes=100
    )
    assert Limits(latency_ms=1.0).within(board) == Limits(1.0, memory_bytes=board.memory_bytes)


def test_of_equal_nets_the_larger_goes_on_and_the_quicker_wins() -> None:
    small, large = grid((0.5, 1.0), (1.0,))
    sizes = {small: _sizes(1, 0.1), large: _sizes(9, 0.9)}
    scores = {small: 0.1, large: 0.1}

    assert promising(scores, sizes) == (large, small)
    assert ranked(scores, sizes) == (small, large)


@given(st.integers(1, 40), st.integers(1, 500), st.integers(1, 5))
def test_halving_ends_with_one_net_and_keeps_its_budget(
    count: int, budget: int, least: int
) -> None:
    candidates = [Candidate(float(n), 1.0) for n in range(1, count + 1)]
    sizes = {one: _sizes(int(one.width)) for one in candidates}

    chosen = affordable(candidates, sizes, budget, least)

    assert set(chosen) <= set(candidates)
    assert max(candidates) in chosen  # the largest
    alive, spent = chosen, 0
    for _ in range(rounds(len(chosen))):
        spent += len(alive) * epochs_of(len(chosen), len(alive), budget, least)
        alive = survivors(ranked({one: one.width for one in alive}, sizes))
    assert alive == (max(candidates),)
    assert spent <= max(budget, least)


def test_the_front_holds_what_nothing_beats() -> None:
    small, good, worse = grid((0.5, 1.0, 2.0), (1.0,))
    sizes = {small: _sizes(1, 0.1), good: _sizes(5, 0.5), worse: _sizes(9, 0.9)}

    assert pareto({small: 0.7, good: 0.9, worse: 0.8}, sizes) == {small, good}


@pytest.mark.timeout(600)  # five processes that import torch
def test_a_search_keeps_its_limit_and_compiles_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "train.py", tmp_path / "out"
    recipe.write_text(RECIPE)
    words = ["search", str(recipe), "--target", "generic-x86_64", "--max-memory", "1000"]
    words += ["--budget", "8", "--out", str(out), "--json"]

    assert main(words) == 0

    found = json.loads(capsys.readouterr().out)
    trained = (tmp_path / "trained.txt").read_text()
    assert found["best"]["width"] in (0.5, 1.0)
    by_width = {one["width"]: one for one in found["candidates"]}
    assert "allowed are 1000" in by_width[64.0]["refused"]
    assert by_width[64.0]["epochs"] == 0
    assert trained.split("\n")[:-1] == ["4 4", "8 4"]
    assert open_bundle(out / "bundle").manifest.profile == "generic-x86_64"


@dataclass
class Recipes:
    """A recipe's process, in memory: a net's score is its width; it may die, or diverge."""

    dies_at: int = 10**9  # training, counted from 1
    diverges: frozenset[float] = frozenset()
    trained: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        match request["action"]:
            case "describe":
                widths = [0.25, 0.5, 1.0, 1.5, 64.0]
                yield {"widths": widths, "depths": [1.0], "min_epochs": 1, "code": []}
            case "size":
                for width, depth in request["candidates"]:
                    found: dict[str, Any] = {"sizes": _sizes(int(width * 100)).to_dict()}
                    yield {
                        "candidate": [width, depth],
                        **({"refused": "no"} if width > 9 else found),
                    }
            case "train":
                for width, depth in request["candidates"]:
                    if len(self.trained) + 1 == self.dies_at:
                        raise ConversionError("it died")
                    self.trained.append((width, request["epochs"]))
                    score = None if width in self.diverges else width
                    yield {"candidate": [width, depth], "score": score}
            case "export":
                yield {"done": True}


def _searched(folder: Path, recipe: Recipes, **more: Any) -> Found:
    (folder / "train.py").touch()
    options = SearchOptions(folder / "train.py", "generic-x86_64", folder / "out", budget=16)
    return search(replace(options, **more), lambda step: None, recipe)


@pytest.mark.parametrize("dies_at", range(1, 7))
def test_an_interrupted_search_ends_as_one_that_was_not(dies_at: int, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = Recipes()
    expected = _searched(tmp_path / "whole", whole)
    cut, rest = Recipes(dies_at), Recipes()

    with pytest.raises(ConversionError):
        _searched(tmp_path, cut)
    found = _searched(tmp_path, rest)

    assert replace(found, model=expected.model) == expected
    assert cut.trained + rest.trained == whole.trained
    with pytest.raises(UsageError, match="another recipe, target or seed"):
        _searched(tmp_path, Recipes(), seed=1)
    assert whole.trained == [(0.25, 2), (0.5, 2), (1.0, 2), (1.5, 2), (1.0, 4), (1.5, 4)]


def test_with_other_limits_or_more_epochs_a_search_trains_only_what_is_new(tmp_path: Path) -> None:
    fresh, other = Recipes(), Recipes()
    with pytest.raises(LimitsMissedError, match=r"smallest, w0\.25-d1: needs 25 bytes of memory"):
        _searched(tmp_path, Recipes(), limits=Limits(memory_bytes=1))

    narrow = _searched(tmp_path, fresh, limits=Limits(memory_bytes=100))
    again = _searched(tmp_path, other)

    assert narrow.best == Candidate(1.0, 1.0)
    assert fresh.trained == [(0.25, 2), (0.5, 2), (1.0, 2), (0.5, 4), (1.0, 4)]
    assert other.trained == [(1.5, 2), (1.5, 4)]
    assert again.best == Candidate(1.5, 1.0)


def test_a_net_whose_training_diverges_is_left_out(tmp_path: Path) -> None:
    found = _searched(tmp_path, Recipes(diverges=frozenset({1.0, 1.5})))

    assert found.best == Candidate(0.5, 1.0)
    assert found.refused[Candidate(1.0, 1.0)] == "its score is no number: its training diverged"
    assert sum(found.epochs.values()) <= 16
    (tmp_path / "other").mkdir()
    with pytest.raises(NotAchievedError, match="their training diverged"):
        _searched(tmp_path / "other", Recipes(diverges=frozenset({0.25, 0.5, 1.0, 1.5})))


@pytest.mark.timeout(600)  # four processes that import torch
def test_a_killed_search_leaves_no_process_behind(tmp_path: Path) -> None:
    recipe = tmp_path / "train.py"
    sleeps = "(Path(__file__).parent / 'pid').write_text(str(__import__('os').getpid()))\n"
    sleeps += "    __import__('time').sleep(600)\n    return module"
    recipe.write_text(ONE.replace("return module\n", sleeps + "\n"))
    words = ["search", str(recipe), "--target", "generic-x86_64", "--out", str(tmp_path / "out")]
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stderr=subprocess.DEVNULL)
    pid = _until(lambda: int((tmp_path / "pid").read_text()))

    assert "another search is at work there" in edgec(*words).err
    parent.kill()
    parent.wait()

    assert _until(lambda: True if not Path(f"/proc/{pid}").exists() else None)


def _until(ready: Callable[[], Any]) -> Any:
    """Return what `ready` gives, once it gives something."""
    for _ in range(1200):
        with suppress(OSError, ValueError):
            if (found := ready()) is not None:
                return found
        time.sleep(0.1)
    raise AssertionError("it never became so")


def test_limits_that_no_net_keeps_are_told_with_what_is_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "train.py"
    recipe.write_text(RECIPE.replace("(0.5, 1.0, 64.0)", "(0.5, 1.0)"))
    words = ["search", str(recipe), "--target", "generic-x86_64", "--out", str(tmp_path / "out")]

    assert main([*words, "--max-flash", "200", "--max-latency-ms", "1e-6", "--json"]) == 1

    said = capsys.readouterr()
    told = json.loads(said.out)
    assert [one["width"] for one in told["candidates"]] == [0.5, 1.0]
    assert told["error"] in said.err
    assert "the smallest, w0.5-d1: its file has" in told["error"]
    assert "allowed are 200; takes 0.0" in told["error"]
    assert not (tmp_path / "trained.txt").exists()


def test_what_the_best_net_would_be_refused_for_is_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "train.py"
    recipe.write_text(RECIPE)
    words = ["search", str(recipe), "--target", "cortex-m7", "--out", str(tmp_path / "out")]

    assert main(words) == 2

    assert "add --calibration DATA" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def build(w, d): pass", "'example' is missing"),
        (RECIPE.replace("(0.5, 1.0, 64.0)", "(-1,)"), "WIDTHS must give numbers above 0"),
        (RECIPE + "\nimport os; os.abort()", "was killed by SIGABRT"),
        (RECIPE + "\nMIN_EPOCHS = 9", "--budget: expected 9 epochs or more"),
    ],
)
def test_a_recipe_that_is_wrong_is_told(
    code: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(code)

    words = ["search", str(recipe), "--target", "generic-x86_64", "--budget", "8"]

    code_of_exit = main([*words, "--out", str(tmp_path / "out")])

    assert code_of_exit in (1, 2)
    assert said in capsys.readouterr().err


def _recipe(folder: Path, body: str) -> RecipeFile:
    path = folder / "recipe.py"
    stubs = [f"def {name}(*given): return {body}" for name in ("build", "train", "evaluate")]
    path.write_text(
        "\n".join(["import numpy, torch", *stubs, "def example(): return torch.zeros(1)"])
    )
    return RecipeFile(path)


@pytest.mark.parametrize("given", ["0.5", "numpy.float32(0.5)", "torch.tensor([0.5])"])
def test_a_score_is_any_number(given: str, tmp_path: Path) -> None:
    assert _recipe(tmp_path, given).evaluate(nn.Identity()) == 0.5
    assert _recipe(tmp_path, "float('nan')").evaluate(nn.Identity()) is None


@pytest.mark.parametrize("given", ["'0.5 or so'", "None", "torch.zeros(2)"])
def test_what_a_recipe_gives_instead_is_told(given: str, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, given)

    with pytest.raises(ModelFileError, match="evaluate must give a number, got"):
        recipe.evaluate(nn.Identity())
    with pytest.raises(ModelFileError, match="train must give the trained module, got"):
        recipe.train(nn.Identity(), 0, 1)
    with pytest.raises(ModelFileError, match=r"build must give a torch\.nn\.Module, got"):
        recipe.build(Candidate(1.0, 1.0), 0)


def test_weights_that_are_damaged_or_anothers_are_told_with_the_way_out(tmp_path: Path) -> None:
    recipe = tmp_path / "train.py"
    recipe.write_text(ONE)
    (tmp_path / "w1-d1-4.pt").write_bytes(b"PK nothing more")
    torch.save({"of_another.weight": torch.zeros(2)}, tmp_path / "w1-d1-5.pt")
    asked = {"recipe": str(recipe), "action": "train", "candidates": [[1.0, 1.0]], "seed": 0}

    with pytest.raises(RemoteError, match=r"w1-d1-4\.pt: cannot be read; delete"):
        list(ask({**asked, "folder": str(tmp_path), "trained": [4], "epochs": 8}))
    with pytest.raises(RemoteError, match=r"w1-d1-5\.pt: not the weights of this net; delete"):
        list(ask({**asked, "folder": str(tmp_path), "trained": [5], "epochs": 8}))


def test_code_that_a_recipe_imports_from_elsewhere_counts_as_its_own(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "own_layers_of_mine.py").write_text("WIDTH = 3\n")
    (tmp_path / "recipe").mkdir()
    path = tmp_path / "recipe" / "train.py"
    path.write_text(
        f"import sys, json, numpy; sys.path.append({str(tmp_path / 'beside')!r})\n"
        "import own_layers_of_mine\n" + RECIPE
    )

    code = RecipeFile(path).code()

    assert code == [str(tmp_path / "beside" / "own_layers_of_mine.py"), str(path)]
    sys.modules.pop("own_layers_of_mine")
    sys.path.remove(str(tmp_path / "beside"))
