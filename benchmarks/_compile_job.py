"""One way to quantise one model, in a process of its own: `_compile_job.py METHOD JOB.json`.

The job names `model` (a float .onnx or .tflite), `feeds` (an .npz with the calibration samples as
the model's inputs take them) and `out`, the file to write. Nothing of edgec runs here, but that a
TFLite method reads ONNX through edgec's importer, because its peers have none. One line of JSON
comes out: CPU seconds of the process, imports included, and its peak memory.
"""

import json
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Feeds = list[dict[str, np.ndarray]]


class Reader:
    """Calibration samples as onnxruntime's quantiser asks for them."""

    def __init__(self, feeds: Feeds) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next sample, or None."""
        return next(self._left, None)


def ort_default(job: dict[str, Any], feeds: Feeds) -> None:
    """`quantize_static` as it comes: one scale per tensor."""
    from onnxruntime.quantization import quantize_static

    quantize_static(job["model"], job["out"], Reader(feeds))


def ort_per_channel(job: dict[str, Any], feeds: Feeds) -> None:
    """`quantize_static` after its recommended preparation, weights per channel."""
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = job["out"] + ".ready.onnx"
    quant_pre_process(job["model"], ready)
    quantize_static(ready, job["out"], Reader(feeds), per_channel=True)


def bare_onnx(job: dict[str, Any], feeds: Feeds) -> None:
    """The converter calls that edgec makes for an ONNX target, and nothing else."""
    import torch
    from onnxruntime.quantization import quantize_static

    module, example, names = _module(job)
    exported = job["out"] + ".float.onnx"
    program = torch.onnx.export(
        module, example, dynamo=True, verbose=False, opset_version=18, input_names=names
    )
    program.save(exported)
    quantize_static(exported, job["out"], Reader(feeds), per_channel=True)


def aeq_default(job: dict[str, Any], feeds: Feeds) -> None:
    """litert-torch and ai-edge-quantizer with its own calibration, as its documentation has it."""
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    payload, moved = _float_tflite(job)
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8)
    engine = quantizer.Quantizer(bytearray(payload))
    engine.load_quantization_recipe(recipe.get_quantization_recipe())
    names = _signature(payload)
    turned = [
        {
            name: value.transpose(0, 2, 3, 1) if moved and value.ndim == 4 else value
            for name, value in zip(names, sample.values(), strict=True)
        }
        for sample in feeds
    ]
    found = engine.calibrate({"serving_default": turned})
    Path(job["out"]).write_bytes(bytes(engine.quantize(found).quantized_model))


def nncf(job: dict[str, Any], feeds: Feeds) -> None:
    """NNCF's post-training quantisation of the ONNX file, with its defaults."""
    import nncf
    import onnx

    made = nncf.quantize(onnx.load(job["model"]), nncf.Dataset(feeds), subset_size=len(feeds))
    onnx.save(made, job["out"])


def _module(job: dict[str, Any]) -> tuple[Any, tuple[Any, ...], list[str]]:
    from edgec_compiler.importers import import_model

    source = import_model(job["model"], {})
    return source.module, source.example(), [tensor.name for tensor in source.inputs]


def _float_tflite(job: dict[str, Any]) -> tuple[bytes, bool]:
    """Return the float TFLite form, and whether its images became channel-last."""
    if job["model"].endswith(".tflite"):
        return Path(job["model"]).read_bytes(), False
    import litert_torch
    import torch

    module, example, _ = _module(job)
    images = [i for i, x in enumerate(example) if x.ndim == 4]
    turned = tuple(x.permute(0, 2, 3, 1) if i in images else x for i, x in enumerate(example))
    with torch.no_grad():
        wrapped = litert_torch.to_channel_last_io(module, args=images)
        litert_torch.convert(wrapped, turned).export(job["out"] + ".float")
    return Path(job["out"] + ".float").read_bytes(), bool(images)


def _signature(payload: bytes) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=payload)
    return list(interpreter.get_signature_list()["serving_default"]["inputs"])


METHODS: dict[str, Callable[[dict[str, Any], Feeds], None]] = {
    "ort-default": ort_default,
    "ort-per-channel": ort_per_channel,
    "bare-onnx": bare_onnx,
    "aeq-default": aeq_default,
    "nncf": nncf,
}


def main() -> None:
    """Run the method and say what it cost."""
    method, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    with np.load(job["feeds"]) as arrays:
        names = list(arrays.files)
        columns = [arrays[name] for name in names]
    count = len(columns[0])
    feeds = [
        {name: column[row : row + 1] for name, column in zip(names, columns, strict=True)}
        for row in range(count)
    ]
    METHODS[method](job, feeds)
    used = resource.getrusage(resource.RUSAGE_SELF)
    facts = {"cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}
    print("\n" + json.dumps(facts))


if __name__ == "__main__":
    main()
