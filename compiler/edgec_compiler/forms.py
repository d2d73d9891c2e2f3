"""One imported model and its float forms, each made once and shared by all targets of a run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
from torch import fx, nn

from edgec_compiler.convert.constants import with_constants_folded
from edgec_compiler.convert.fused import fused
from edgec_compiler.convert.parity import check_onnx, check_same, check_tflite
from edgec_compiler.convert.reverses import without_reverses
from edgec_compiler.convert.to_onnx import lowered, serialise, to_onnx
from edgec_compiler.convert.to_tflite import FloatTflite, to_tflite, with_unique_names
from edgec_compiler.convert.write_out import write_out
from edgec_compiler.errors import ConversionError, UsageError
from edgec_compiler.importers.tflite_activations import with_activations
from edgec_compiler.importers.tflite_dense import with_dense_values
from edgec_compiler.importers.tflite_dilations import with_dilations
from edgec_compiler.importers.tflite_floats import as_float
from edgec_compiler.importers.tflite_reshapes import with_reshapes
from edgec_compiler.interface import Interface, fit
from edgec_compiler.passes import TFLITE_PASSES, capture, run_passes
from edgec_compiler.passes.graph import copied
from edgec_compiler.passes.pipeline import Pass
from edgec_compiler.quantise.clipping import Range, Scheme
from edgec_compiler.quantise.equalise import equalise
from edgec_compiler.quantise.ranges import Observations, observe_onnx, observe_tflite
from edgec_compiler.samples import Samples, feeds
from edgec_compiler.source import SourceModel
from edgec_runtime.session import Array, load_session

Progress = Callable[[str], None]
EQUALISE = Pass("equalise", equalise, lambda graph: 0)
RangesKey = tuple[str, str, Scheme]  # format, method, scheme


@dataclass(frozen=True, slots=True)
class MadeForms:
    """What one process made of a model's float forms, to be handed to another."""

    tflite: FloatTflite | None
    onnx: bytes | None
    ranges: Mapping[RangesKey, Mapping[str, Range]]
    passes: Mapping[str, int]
    equalised: "MadeForms | None"
    written_out: Mapping[tuple[str, ...], "MadeForms"] = field(default_factory=dict)


@dataclass(slots=True)
class Forms:
    """Float forms of `source`, made when first asked for."""

    source: SourceModel
    interface: Interface
    calibration: Samples | None
    progress: Progress
    passes: dict[str, int] = field(default_factory=dict)
    compression: Mapping[str, Any] | None = None  # what the compression stage did to the graph
    _graph: fx.GraphModule | None = None
    _tflite: FloatTflite | None = None
    _onnx: onnx.ModelProto | None = None
    _seen: dict[tuple[str, bool], Observations] = field(default_factory=dict)
    _ranges: dict[RangesKey, Mapping[str, Range]] = field(default_factory=dict)
    _equalised: "Forms | None" = None
    _written_out: dict[tuple[str, ...], "Forms"] = field(default_factory=dict)

    def made(self) -> MadeForms:
        """Return what has been made so far, picklable; `adopt` is the inverse."""
        model = None if self._onnx is None else serialise(self._onnx)
        even = None if self._equalised is None else self._equalised.made()
        others = {ops: one.made() for ops, one in self._written_out.items() if one is not self}
        return MadeForms(self._tflite, model, dict(self._ranges), dict(self.passes), even, others)

    def adopt(self, made: MadeForms) -> None:
        """Take over what another process made of this same model."""
        self._tflite = made.tflite or self._tflite
        if made.onnx is not None:
            self._onnx = onnx.load_model_from_string(made.onnx)
        self._ranges |= made.ranges
        self.passes |= made.passes
        if made.equalised is not None:
            self.equalised().adopt(made.equalised)
        for ops, other in made.written_out.items():
            self._written_out.setdefault(ops, self._same()).adopt(other)

    def is_made(self, fmt: str) -> bool:
        """Return whether a form is there: to make one takes native code, which may crash."""
        return (self._tflite if fmt == "tflite" else self._onnx) is not None

    def passes_for(self, fmt: str) -> dict[str, int]:
        """Return how many places each graph pass rewrote for a format, whatever else was made."""
        others = () if fmt == "tflite" else {one.name for one in TFLITE_PASSES}
        return {name: count for name, count in self.passes.items() if name not in others}

    def graph(self) -> fx.GraphModule:
        """Return the captured graph after all passes, and compressed if that was asked for."""
        if self._graph is None:
            if self.source.module is None:
                raise ConversionError(
                    "a TFLite file can only become a TFLite bundle: choose a TFLite target, "
                    "or start from the ONNX or PyTorch model that it was made from"
                )
            self.progress("graph passes")
            example = self.source.example()
            self._graph = capture(self.source.module, example)
            self.passes |= run_passes(self._graph, example)
        return self._graph

    def replace_graph(self, graph: fx.GraphModule, compression: Mapping[str, Any]) -> None:
        """Let all forms be made from `graph`, the compressed one."""
        self._graph, self.compression = graph, compression

    def equalised(self) -> "Forms":
        """Return the forms of the same model with its layers' ranges evened out.

        Raises:
            UsageError: the source is a TFLite file, which has no graph to work on.
        """
        if self._equalised is None:
            if self.source.module is None:
                raise UsageError(
                    "--equalize: a TFLite file has no graph to work on: start from the ONNX or "
                    "PyTorch model that it was made from"
                )
            graph = copied(self.graph())
            self.progress("equalise")
            passes = self.passes | run_passes(graph, self.source.example(), (EQUALISE,))
            self._equalised = self._same()
            self._equalised.passes, self._equalised._graph = passes, graph
        return self._equalised

    def written_out(self, ops: tuple[str, ...]) -> "Forms":
        """Return the forms of the same model with the operators `ops` of TFLite written out.

        Raises:
            ConversionError: the model has no TFLite form.
        """
        if not ops:
            return self
        if ops not in self._written_out:
            form = self.tflite()
            payload, counts = write_out(form.payload, ops)
            if counts:
                check_same(form.payload, payload, f"{' and '.join(counts)} written out")
                other = self._same()
                other.passes = self.passes | {f"write out {op}": n for op, n in counts.items()}
                other._tflite = replace(form, payload=payload)
            else:
                other = self
            self._written_out[ops] = other
            other._written_out[ops] = other
        return self._written_out[ops]

    def _same(self) -> "Forms":
        """Return forms of the same graph, none of them made yet."""
        own = self.source, self.interface, self.calibration, self.progress
        return Forms(*own, dict(self.passes), self.compression, self._graph)

    def tflite(self) -> FloatTflite:
        """Return the float TFLite form, or the source itself if it is one."""
        if self._tflite is None:
            if self.source.format == "tflite" and self.source.payload is not None:
                payload = with_activations(as_float(with_dense_values(self.source.payload)))
                payload = with_dilations(with_reshapes(payload))
                self._tflite = FloatTflite(with_unique_names(payload), (), ())
            else:
                graph = copied(self.graph())
                self.passes |= run_passes(graph, self.source.example(), TFLITE_PASSES)
                self.progress("convert to TFLite")
                form = to_tflite(graph, self.source)
                payload = with_constants_folded(form.payload)
                form = replace(form, payload=without_reverses(fused(payload)))
                check_tflite(form, self._reference(), self.source)
                self._tflite = form
        return self._tflite

    def onnx(self, max_opset: int | None) -> onnx.ModelProto:
        """Return the float ONNX form in an opset that the target has. Raises ConversionError."""
        if self._onnx is None:
            graph = self.graph()
            self.progress("convert to ONNX")
            model = to_onnx(graph, self.source)
            check_onnx(serialise(model), self._reference(), self.source)
            self._onnx = model
        return lowered(self._onnx, max_opset)

    def _reference(self) -> nn.Module:
        """Return what the forms must compute: the source's module, or the compressed graph."""
        module = self.source.module if self.compression is None else self.graph()
        return self.graph() if module is None else module

    def tflite_ranges(self, method: str, scheme: Scheme) -> Mapping[str, Range]:
        """Return the ranges of the float TFLite form's activations over the calibration data."""

        def observe(histograms: bool) -> Observations:
            samples = self.tflite_feeds(self.calibration_samples())
            return observe_tflite(self.tflite().payload, samples, histograms=histograms)

        return self._find_ranges("tflite", method, scheme, observe)

    def onnx_ranges(self, method: str, scheme: Scheme) -> Mapping[str, Range]:
        """Return the ranges of the float ONNX form's activations over the calibration data."""

        def observe(histograms: bool) -> Observations:
            samples = self.onnx_feeds(self.calibration_samples())
            return observe_onnx(self.onnx(None), samples, histograms=histograms)

        return self._find_ranges("onnx", method, scheme, observe)

    def _find_ranges(
        self, fmt: str, method: str, scheme: Scheme, observe: Callable[[bool], Observations]
    ) -> Mapping[str, Range]:
        if (fmt, method, scheme) not in self._ranges:
            histograms = method != "minmax" or (fmt, True) in self._seen
            if (fmt, histograms) not in self._seen:
                self.progress("calibrate")
                self._seen[fmt, histograms] = observe(histograms)
            self._ranges[fmt, method, scheme] = self._seen[fmt, histograms].ranges(method, scheme)
        return self._ranges[fmt, method, scheme]

    def tflite_feeds(self, samples: Samples) -> Iterator[Mapping[str, Array]]:
        """Yield what the float TFLite form reads, sample by sample."""
        form = self.tflite()
        session = load_session(form.payload, "litert")
        names, inputs = [t.name for t in session.inputs], session.inputs
        session.close()
        ends = (self.source.inputs, self.source.outputs)
        moved = (form.moved_inputs, ())
        fitted = fit(self.interface, ends, (inputs, self.source.outputs), moved)
        return feeds(samples, fitted, names, inputs[0].shape[0] if inputs else 1)

    def onnx_feeds(self, samples: Samples) -> Iterator[Mapping[str, Array]]:
        """Yield what the float ONNX form reads, sample by sample."""
        inputs = self.source.inputs
        batch = inputs[0].shape[0] if inputs else 1
        return feeds(samples, self.interface, [tensor.name for tensor in inputs], batch)

    def calibration_samples(self) -> Samples:
        """Return the calibration data. Raises ConversionError if there is none."""
        if self.calibration is None:
            raise ConversionError("calibration data is missing")
        return self.calibration
