"""ONNX graphs keep the source's names of inputs and outputs, whatever torch calls inner values."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgec_compiler.convert.to_onnx import serialise, to_onnx
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.source import SourceModel
from edgec_runtime import load_session
from edgec_runtime.session import ModelTensor


@pytest.mark.parametrize(("given", "made"), [("x", "conv2d"), ("conv2d", "y"), ("x", "y")])
def test_an_end_may_be_called_as_an_inner_value_is(given: str, made: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU()).eval()
    ends = ModelTensor(given, "float32", (1, 2, 4, 4)), ModelTensor(made, "float32", (1, 3, 4, 4))
    source = SourceModel("keras", "m", "", 0, (ends[0],), (ends[1],), (), module, None)
    graph = capture(module, source.example())
    run_passes(graph, source.example())

    model = to_onnx(graph, source)

    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
    answer = load_session(serialise(model), "onnxruntime").run({given: x})
    with torch.no_grad():
        assert np.allclose(answer[made], module(torch.from_numpy(x)), atol=1e-6)
