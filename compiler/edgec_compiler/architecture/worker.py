"""The child in which a recipe's code runs: ``python -m edgec_compiler.architecture.worker``.

One JSON request comes on stdin; answers go as one JSON object per line to the file descriptor that
argv names. What the recipe prints goes to stdout and stderr, which the parent keeps as a log.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from edgec_compiler.architecture.candidates import Candidate
from edgec_compiler.child import end_with_parent
from edgec_compiler.errors import CompilerError, UsageError

JSON = dict[str, Any]


def main() -> int:
    """Answer the request on stdin; always say how it ended."""
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as answers:
        end_with_parent(answers.fileno())
        request = json.load(sys.stdin)
        try:
            for answer in _answers(request):
                _tell(answers, answer)
        except ImportError as error:
            if error.name is None or error.name.startswith("edgec"):
                raise
            _tell(answers, {"missing": error.name})
        except CompilerError as error:
            _tell(answers, {"failed": str(error), "exit_code": error.exit_code})
        except (OSError, MemoryError) as error:
            _tell(answers, {"failed": str(error) or "out of memory", "exit_code": 1})
    return 0


def _answers(request: JSON) -> Iterator[JSON]:
    import torch

    from edgec_compiler.architecture.protocol import RecipeFile

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums are then added in one order on every machine
    recipe = RecipeFile(Path(request["recipe"]))
    actions: dict[str, Callable[[RecipeFile, JSON], Iterator[JSON]]] = {
        "describe": _describe,
        "size": _size,
        "train": _train,
        "export": _export,
    }
    yield from actions[request["action"]](recipe, request)


def _describe(recipe: Any, _request: JSON) -> Iterator[JSON]:
    widths, depths = recipe.multipliers()
    epochs = recipe.min_epochs()
    yield {"widths": widths, "depths": depths, "min_epochs": epochs, "code": recipe.code()}


def _size(recipe: Any, request: JSON) -> Iterator[JSON]:
    """Yield the sizes of every candidate; one that cannot be compiled says why."""
    from edgec_compiler.architecture.sizing import least_bytes, sizes_of
    from edgec_hardware_profiles import load

    profile, most = load(request["target"]), request["most_bytes"]
    for candidate in _candidates(request):
        try:
            net = recipe.build(candidate, request["seed"])
            least = least_bytes(net, request["precision"])
            if most is not None and least > most:
                why = f"its weights alone take {least} bytes, allowed are {most}"
                yield {"candidate": _pair(candidate), "refused": why, "over": True}
                continue
            sizes = sizes_of(net, recipe.example(), profile, request["precision"])
        except CompilerError as error:
            yield {"candidate": _pair(candidate), "refused": str(error)}
            continue
        yield {"candidate": _pair(candidate), "sizes": sizes.to_dict()}


def _train(recipe: Any, request: JSON) -> Iterator[JSON]:
    """Train every candidate on for some epochs, keep its weights, and yield its score."""
    import torch

    folder, seed, before = Path(request["folder"]), request["seed"], request["trained"]
    for candidate in _candidates(request):
        net = recipe.build(candidate, seed)
        if before:
            _restore(net, folder, candidate, before)
        net = recipe.train(net, seed + len(before), request["epochs"])
        score = recipe.evaluate(net)
        path = _file(folder, candidate, [*before, request["epochs"]])
        partial = path.with_name(path.name + ".partial")
        torch.save(net.state_dict(), partial)
        os.replace(partial, path)
        yield {"candidate": _pair(candidate), "score": score}


def _export(recipe: Any, request: JSON) -> Iterator[JSON]:
    """Write the best candidate as an exported program."""
    import warnings

    import torch

    (candidate,) = _candidates(request)
    net = recipe.build(candidate, request["seed"])
    _restore(net, Path(request["folder"]), candidate, request["trained"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes to its own developers
        program = torch.export.export(net.eval(), recipe.example())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, request["out"])
    yield {"done": True}


def _restore(net: Any, folder: Path, candidate: Candidate, epochs: Sequence[int]) -> None:
    """Give `net` the weights that it had after `epochs`. Raises UsageError."""
    import torch

    path = _file(folder, candidate, epochs)
    try:
        weights = torch.load(path, weights_only=True)
    except Exception as error:  # a zip, a pickle, a file: each has errors of its own
        raise UsageError(f"{path}: cannot be read; delete {folder} to start anew") from error
    try:
        net.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: not the weights of this net; delete {folder} to start anew"
        ) from error


def _file(folder: Path, candidate: Candidate, epochs: Sequence[int]) -> Path:
    return folder / f"{candidate.name}-{'+'.join(map(str, epochs))}.pt"


def _candidates(request: JSON) -> Iterator[Candidate]:
    for width, depth in request["candidates"]:
        yield Candidate(width, depth)


def _pair(candidate: Candidate) -> list[float]:
    return [candidate.width, candidate.depth]


def _tell(answers: IO[str], answer: JSON) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
