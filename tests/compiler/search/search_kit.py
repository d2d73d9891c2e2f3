"""A small network that int8 ruins in one place, with labelled data: what a search is for."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgec_runtime.session import load_session

ROWS = 200
LAYERS = ("first", "second", "wide", "answer")  # the MatMuls, as they are called in the file


def write_ill_conditioned(folder: Path) -> None:
    """Write model.onnx, calibration.npz, evaluation.npz and labels.txt.

    The answer lies in the small half of the values that "wide" makes; the other half is a thousand
    times larger, so that one scale for both leaves nothing of the small ones. No other range of the
    whole tensor helps, nor does equalisation: a tanh follows.
    """
    draw = np.random.default_rng(7)
    first, second = (draw.normal(0, 1 / np.sqrt(n), (n, 64)) for n in (32, 64))
    wide = draw.normal(0, 0.6, (64, 16)) * np.where(np.arange(16) < 8, 2000.0, 0.5)
    answer = np.where(np.arange(16)[:, None] < 8, 0.0, draw.normal(0, 1, (16, 4)))
    weights = dict(zip(LAYERS, (first, second, wide, answer), strict=True))
    nodes = [
        helper.make_node("MatMul", ["x", "w_first"], ["first"]),
        helper.make_node("Relu", ["first"], ["a"]),
        helper.make_node("MatMul", ["a", "w_second"], ["second"]),
        helper.make_node("Relu", ["second"], ["b"]),
        helper.make_node("MatMul", ["b", "w_wide"], ["wide"]),
        helper.make_node("Tanh", ["wide"], ["c"]),
        helper.make_node("MatMul", ["c", "w_answer"], ["answer"]),
        helper.make_node("Softmax", ["answer"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "ill",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(w.astype(np.float32), f"w_{n}") for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    inputs = draw.normal(0, 1, (2 * ROWS, 32)).astype(np.float32)
    session = load_session(model.SerializeToString(), "onnxruntime")
    made = [session.run({"x": row[None]})["probabilities"].argmax() for row in inputs]
    labels = np.array(made, np.int64)
    np.savez(folder / "calibration.npz", inputs=inputs[:ROWS])
    np.savez(folder / "evaluation.npz", inputs=inputs[ROWS:], labels=labels[ROWS:])
    (folder / "labels.txt").write_text("north\neast\nsouth\nwest\n")
    (folder / "steps.toml").write_text(STEPS)


STEPS = """
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 32]

[[outputs]]
name = "probabilities"
meaning = "probabilities"
"""


def options(folder: Path) -> tuple[str, ...]:
    """Return the words of a command that uses all that was written to `folder`."""
    return (
        *("--calibration", str(folder / "calibration.npz")),
        *("--evaluation", str(folder / "evaluation.npz")),
        *("--preprocessing", str(folder / "steps.toml")),
        *("--labels", str(folder / "labels.txt")),
    )
