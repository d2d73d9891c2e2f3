"""Makes the tiny committed models: `python tests/agent/models/make_models.py`.

double.onnx    float32 [N, 4] -> float32 [N, 4]: twice its input.
double.tflite  the same for one row.
What else the tests need, they write into the manifest: types, offsets, scores.
"""

from pathlib import Path

import litert_torch
import onnx
import torch
from ai_edge_litert.tools import flatbuffer_utils
from onnx import TensorProto, helper

FOLDER = Path(__file__).parent


class Double(torch.nn.Module):
    """x + x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x


def main() -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, FOLDER / "double.onnx")

    path = str(FOLDER / "double.tflite")
    litert_torch.convert(Double().eval(), (torch.zeros(1, 4),)).export(path)
    flat = flatbuffer_utils.read_model(path)
    graph = flat.subgraphs[0]
    for indices, name in ((graph.inputs, b"x"), (graph.outputs, b"y")):
        graph.tensors[indices[0]].name = name
    flat.signatureDefs = []
    flatbuffer_utils.write_model(flat, path)


if __name__ == "__main__":
    main()
