"""Prints the resident bytes after each of ten swaps of a 40 MB model: `python swap_memory.py`."""

import json
from dataclasses import replace

import numpy as np
from doubles import bundle, rows
from onnx import TensorProto, helper, numpy_helper

from edgec_agent.host import ModelHost
from edgec_agent.memory import resident_bytes

WIDTH = 2_500_000  # times four bytes, times four rows


def big_model() -> bytes:
    """Return [N, 4] -> [N, 4], its input plus the mean of 40 MB of zeros."""
    weights = numpy_helper.from_array(np.zeros((4, WIDTH), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wide"]),
        helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["x", "mean"], ["y"]),
    ]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"
    ]
    graph = helper.make_graph(nodes, "big", tensors[:1], tensors[1:], [weights])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def main() -> None:
    blobs = {"model": big_model(), "labels": b""}
    host = ModelHost()
    resident = []
    for number in range(10):
        manifest = replace(bundle().manifest, version=f"1.{number}.0")
        previous = host.activate("double", host.load(manifest, blobs.__getitem__))
        host.infer("double", {"x": rows()})
        assert previous is None or host.retire(previous, wait_s=120)
        resident.append(resident_bytes())
    host.close()
    print(json.dumps({"model": len(blobs["model"]), "resident": resident}))


if __name__ == "__main__":
    main()
