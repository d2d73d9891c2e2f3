"""Writes a trained net as .pt2 and as ONNX, without a trace of the machine that trained it."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import nn


def save_pt2(net: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write `net` as an exported program with the batch of `example`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an LSTM's or GRU's weights are seen twice while exported
        program = torch.export.export(net, (example,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def save_onnx(
    net: nn.Module, example: torch.Tensor, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Write `net` as ONNX opset 18 with a free batch dimension."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation notes
        program = torch.onnx.export(
            net,
            (torch.cat([example, example]),),
            dynamo=True,
            verbose=False,
            opset_version=18,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    proto = program.model_proto
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    onnx.save(proto, path)
