"""One imported model and its float forms, each made once and shared by all targets of a run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from torch import fx

from edgec_compiler.convert.to_onnx import to_onnx
from edgec_compiler.convert.to_tflite import FloatTflite, to_tflite, with_unique_names
from edgec_compiler.errors import ConversionError
from edgec_compiler.importers.tflite_floats import as_float
from edgec_compiler.interface import Interface, fit
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.quantise.ranges import observe_onnx, observe_tflite
from edgec_compiler.samples import Samples, feeds
from edgec_compiler.source import SourceModel
from edgec_runtime.session import Array, load_session

Progress = Callable[[str], None]


@dataclass(slots=True)
class Forms:
    """Float forms of `source`, made when first asked for."""

    source: SourceModel
    interface: Interface
    calibration: Samples | None
    progress: Progress
    passes: dict[str, int] = field(default_factory=dict)
    _graph: fx.GraphModule | None = None
    _tflite: FloatTflite | None = None
    _onnx: onnx.ModelProto | None = None
    _ranges: dict[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)

    def graph(self) -> fx.GraphModule:
        """Return the captured graph after all passes."""
        if self._graph is None:
            if self.source.module is None:
                raise ConversionError(
                    "a TFLite file can only become a TFLite bundle: choose a TFLite target, "
                    "or start from the ONNX or PyTorch model that it was made from"
                )
            self.progress("graph passes")
            example = self.source.example()
            self._graph = capture(self.source.module, example)
            self.passes = run_passes(self._graph, example)
        return self._graph

    def tflite(self) -> FloatTflite:
        """Return the float TFLite form, or the source itself if it is one."""
        if self._tflite is None:
            if self.source.format == "tflite" and self.source.payload is not None:
                self._tflite = FloatTflite(with_unique_names(as_float(self.source.payload)), (), ())
            else:
                graph = self.graph()
                self.progress("convert to TFLite")
                self._tflite = to_tflite(graph, self.source)
        return self._tflite

    def onnx(self, max_opset: int | None) -> onnx.ModelProto:
        """Return the float ONNX form."""
        if self._onnx is None:
            graph = self.graph()
            self.progress("convert to ONNX")
            self._onnx = to_onnx(graph, self.source, max_opset)
        return self._onnx

    def tflite_ranges(self) -> Mapping[str, tuple[float, float]]:
        """Return the ranges of the float TFLite form's activations over the calibration data."""
        if "tflite" not in self._ranges:
            form = self.tflite()
            self.progress("calibrate")
            samples = self.tflite_feeds(self.calibration_samples())
            self._ranges["tflite"] = observe_tflite(form.payload, samples)
        return self._ranges["tflite"]

    def onnx_ranges(self, max_opset: int | None) -> Mapping[str, tuple[float, float]]:
        """Return the ranges of the float ONNX form's activations over the calibration data."""
        if "onnx" not in self._ranges:
            form = self.onnx(max_opset)
            self.progress("calibrate")
            samples = self.onnx_feeds(self.calibration_samples())
            self._ranges["onnx"] = observe_onnx(form, samples)
        return self._ranges["onnx"]

    def tflite_feeds(self, samples: Samples) -> Iterator[Mapping[str, Array]]:
        """Yield what the float TFLite form reads, sample by sample."""
        form = self.tflite()
        session = load_session(form.payload, "litert")
        names, inputs = [t.name for t in session.inputs], session.inputs
        session.close()
        ends = (self.source.inputs, self.source.outputs)
        moved = (form.moved_inputs, ())
        fitted = fit(self.interface, ends, (inputs, self.source.outputs), moved)
        return feeds(samples, fitted, names)

    def onnx_feeds(self, samples: Samples) -> Iterator[Mapping[str, Array]]:
        """Yield what the float ONNX form reads, sample by sample."""
        names = [tensor.name for tensor in self.source.inputs]
        return feeds(samples, self.interface, names)

    def calibration_samples(self) -> Samples:
        """Return the calibration data. Raises ConversionError if there is none."""
        if self.calibration is None:
            raise ConversionError("calibration data is missing")
        return self.calibration
