"""Why a model file is larger than its source file, in the words that people read."""

from edgec_compiler import tflite
from edgec_compiler.mapping.fitting import Fitted
from edgec_compiler.source import SourceModel

_LOOPS = ("LOOP", "SCAN")
_PROGRAM = "command_stream"  # how Vela ends the names of tensors that hold instructions
_RECURRENT = ("GRU", "LSTM", "RNN", "RNN_TANH", "RNN_RELU")


def on_growth(source: SourceModel, fitted: Fitted) -> tuple[str, ...]:
    """Return a note if `fitted` is larger than the source file, as far as people read sizes."""
    size, was = len(fitted.payload), source.size_bytes
    if not was or size <= was or _kb(size) == _kb(was):
        return ()
    known, program = _weight_bytes(fitted), _program_bytes(fitted)
    if known is None:
        why = f"it is in the form that {fitted.format} files have"
    elif program:
        why = (
            f"{_kb(program)} are the accelerator's instructions, {_kb(known)} weights as it reads "
            "them, the rest describes the file"
        )
    elif known > was and known > size - known:
        why = f"its weights alone take {_kb(known)}, more than the source stores them in"
    else:
        now, before = fitted.mapping.total, len(source.operators)
        why = (
            f"{_kb(known)} are weights, the rest describes {now} operators and their tensors "
            f"(the source has {before} operators){_written_out(source, fitted)}"
        )
    return (f"larger than the source file ({_kb(size)}, {_kb(was)} before): {why}",)


def _written_out(source: SourceModel, fitted: Fitted) -> str:
    ops = {part.upper() for one in source.operators for part in one.op.split(".")}  # aten.gru.input
    found = [name for name in _LOOPS if name in ops]
    whole = {verdict.op.upper() for verdict in fitted.mapping.ops}
    for name in _RECURRENT:
        if name in ops and not any(op.endswith(name.partition("_")[0]) for op in whole):
            found.append(name)
    return f": every turn of {' and '.join(found)} is written out" if found else ""


def _weight_bytes(fitted: Fitted) -> int | None:
    if fitted.format == "tflite":
        return sum(size for name, size in _constants(fitted) if not name.endswith(_PROGRAM))
    if fitted.format == "onnx":
        import onnx  # seconds to import, and a TFLite target does without it

        graph = onnx.ModelProto.FromString(fitted.payload).graph
        return sum(len(one.raw_data) or int(one.ByteSize()) for one in graph.initializer)
    return None


def _program_bytes(fitted: Fitted) -> int:
    """Return how much of an Ethos-U's model are its instructions."""
    if fitted.format != "tflite" or not fitted.own_binary:
        return 0
    return sum(size for name, size in _constants(fitted) if name.endswith(_PROGRAM))


def _constants(fitted: Fitted) -> list[tuple[str, int]]:
    """Return name and bytes of what a TFLite model's tensors hold; each buffer once."""
    model = tflite.parse(fitted.payload, "the model")
    names = {one.buffer: one.name or b"" for graph in model.subgraphs for one in graph.tensors}
    held = ((name.decode(), model.buffers[buffer].data) for buffer, name in names.items())
    return [(name, len(data)) for name, data in held if data is not None]


def _kb(size: int) -> str:
    return f"{size / 1000:.1f} kB"
