"""Operators that ONNX has and torch has not, kept whole in the graph: torch's namespace `edgec`.

Most are composite torch operators. Their parts say what they compute: they run them, train them,
and are what formats without such an operator get. `TRANSLATIONS` says how each is written as ONNX;
`WITHOUT_PARTS` are those that only ONNX can have.
"""

from collections.abc import Callable, Mapping
from typing import Any

from edgec_compiler.composites import pools, recurrent, roi_align, selection

TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    pools.GLOBAL_AVERAGE: pools.write_global_average,
    recurrent.GRU: recurrent.write_gru,
    recurrent.LSTM: recurrent.write_lstm,
    recurrent.RNN: recurrent.write_rnn,
    roi_align.ROI_ALIGN: roi_align.write_roi_align,
    selection.NMS: selection.write_nms,
}

WITHOUT_PARTS: Mapping[Any, str] = {selection.NMS: "NonMaxSuppression"}
