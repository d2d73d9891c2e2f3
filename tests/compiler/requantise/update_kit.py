"""Small nets in versions, and their compiles: what the tests of --delta-base share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgec_bundle.archive import Bundle, open_bundle
from edgec_compiler.isolated import compile_isolated
from edgec_compiler.options import CompileOptions
from edgec_compiler.requantise.outputs import answers

RUNTIMES = {"generic-arm64": "onnxruntime", "rpi4": "litert"}
SIDE = 12


@dataclass(frozen=True, slots=True)
class Net:
    """Two convolutions (the second depthwise and pointwise) and a dense layer, by their weights."""

    weights: dict[str, np.ndarray]

    @classmethod
    def new(cls, seed: int = 0, classes: int = 10) -> "Net":
        draw = np.random.default_rng(seed)
        shapes: dict[str, tuple[int, ...]] = {
            "first.w": (12, 1, 3, 3),
            "deep.w": (12, 1, 3, 3),
            "point.w": (24, 12, 1, 1),
            "last.w": (24, classes),
        }
        fans = {"first.w": 9, "deep.w": 9, "point.w": 12, "last.w": 24}
        weights = {
            name: draw.normal(0, 1.4 / np.sqrt(fans[name]), shape) for name, shape in shapes.items()
        }
        for name, size in (("first.b", 12), ("deep.b", 12), ("point.b", 24), ("last.b", classes)):
            weights[name] = draw.normal(0, 0.2, size)
        return cls({name: value.astype(np.float32) for name, value in weights.items()})

    def updated(self, amount: float, seed: int, only: str = "") -> "Net":
        """Return it after training: weights moved by `amount` of their spread."""
        draw = np.random.default_rng(seed)
        return Net(
            {
                name: (value + draw.normal(0, amount * value.std(), value.shape)).astype(np.float32)
                if name.startswith(only)
                else value
                for name, value in self.weights.items()
            }
        )

    def save(self, path: Path) -> Path:
        nodes = [
            ("Conv", ["x", "first.w", "first.b"], "a", {"pads": [1] * 4, "strides": [2, 2]}),
            ("Relu", ["a"], "b", {}),
            ("Conv", ["b", "deep.w", "deep.b"], "c", {"pads": [1] * 4, "group": 12}),
            ("Relu", ["c"], "d", {}),
            ("Conv", ["d", "point.w", "point.b"], "e", {}),
            ("Relu", ["e"], "f", {}),
            ("GlobalAveragePool", ["f"], "g", {}),
            ("Flatten", ["g"], "h", {}),
            ("Gemm", ["h", "last.w", "last.b"], "y", {}),
        ]
        classes = len(self.weights["last.b"])
        graph = helper.make_graph(
            [helper.make_node(op, inputs, [out], **given) for op, inputs, out, given in nodes],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)
        return path


def images(seed: int, count: int = 48) -> np.ndarray:
    """Return smooth noise [count, 1, SIDE, SIDE]."""
    draw = np.random.default_rng(seed)
    coarse = draw.normal(0, 1, (count, 1, SIDE // 3, SIDE // 3))
    made = np.kron(coarse, np.ones((1, 1, 3, 3))) + draw.normal(0, 0.2, (count, 1, SIDE, SIDE))
    return made.astype(np.float32)


class Workshop:
    """A folder in which nets are compiled, always with the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        # How near an update may go is judged on the evaluation: with 48 images, whose error has a
        # standard error of a tenth, one lambda or the half of it is a matter of luck.
        for name, seed, count in (("calibration", 1, 48), ("evaluation", 2, 192)):
            np.savez(folder / f"{name}.npz", inputs=images(seed, count))

    def options(self, model: Net | Path, base: Path | None = None, **more: Any) -> CompileOptions:
        """Return the options of a compile as int8, near `base` if it is given."""
        self._count += 1
        path = model.save(self.folder / f"{self._count}.onnx") if isinstance(model, Net) else model
        given: dict[str, Any] = {
            "targets": ("generic-arm64",),
            "out": str(self.folder / f"out-{self._count}"),
            "name": "net",
            "precision": "int8",
            "calibration": str(self.folder / "calibration.npz"),
            "evaluation": str(self.folder / "evaluation.npz"),
            "delta_base": None if base is None else str(base),
        }
        return CompileOptions(str(path), **{**given, **more})

    def compile(self, model: Net | Path, base: Path | None = None, **more: Any) -> "Compiled":
        """Compile for one or several targets."""
        options = self.options(model, base, **more)
        results = [one for one in compile_isolated(options) if one["event"] == "result"]
        facts = {one["target"]: dict(one["facts"] or {}) for one in results}
        assert all(facts.values()), [one["error"] for one in results]
        return Compiled(Path(options.out), Path(options.model), facts)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The bundles of one compile, and the float model that they were made of."""

    out: Path
    source: Path
    facts: dict[str, dict[str, Any]]

    def bundle(self, target: str = "generic-arm64") -> Bundle:
        return open_bundle(self.out if len(self.facts) == 1 else self.out / target)

    def model(self, target: str = "generic-arm64") -> bytes:
        return self.bundle(target).read("model")

    def delta(self, target: str = "generic-arm64") -> dict[str, Any]:
        return dict(self.bundle(target).manifest.lineage["delta"])

    def unseen_error(self, target: str = "generic-arm64") -> float:
        """Return the RMS error against the float model on images that no compile has seen."""
        unseen = images(3, 200)
        session = onnxruntime.InferenceSession(self.source.read_bytes())
        exact = np.concatenate([session.run(None, {"x": one[None]})[0] for one in unseen])
        feeds = [one[None] for one in unseen]
        if RUNTIMES[target] == "litert":
            feeds = [np.ascontiguousarray(one.transpose(0, 2, 3, 1)) for one in feeds]
        made = answers(self.model(target), RUNTIMES[target], [{"x": one} for one in feeds])
        return float(np.sqrt(np.square(made - exact).mean()) / exact.std())
