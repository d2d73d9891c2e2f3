"""Walks every table of a TFLite file within bounds, before any other code opens it.

The schema's own Python classes follow whatever offsets a file holds. They are memory-safe, but a
small hostile file that shares one large table a million times would keep them busy for hours. Here
every offset is checked and the work is counted; a file that passes costs no more than its size.

Source: tensorflow/lite/schema/schema.fbs, version 3a.
"""

from edgec_compiler.mapping.flatbuffer import Flatbuffer, FlatbufferError

MAX_BYTES = (2 << 30) - 1  # what 32-bit offsets can address
_LISTS = (  # fields of a tensor's quantisation: min, max, scale (floats), zero_point (longs)
    (0, 4),
    (1, 4),
    (2, 4),
    (3, 8),
)


def check_bounds(payload: bytes) -> None:
    """Return if every table of the file lies in it and none is shared beyond reason.

    Raises:
        ValueError: it does not.
    """
    if len(payload) > MAX_BYTES:
        raise FlatbufferError("larger than 2 GiB")
    file = Flatbuffer(payload, b"TFL3")
    root = file.root()
    for code in file.tables(root, 1):
        file.length(code, 1)
    for graph in file.tables(root, 2):
        _graph(file, graph)
    for buffer in file.tables(root, 4):
        file.length(buffer, 0)
        size = file.integer(buffer, 2, "<Q", 0)
        if size:
            file.span(file.integer(buffer, 1, "<Q", 0), size)
    file.length(root, 5, 4)
    for entry in file.tables(root, 6):
        file.length(entry, 0)
    for signature in file.tables(root, 7):
        for field in (0, 1):
            for named in file.tables(signature, field):
                file.length(named, 0)
        file.length(signature, 2)


def _graph(file: Flatbuffer, graph: int) -> None:
    for tensor in file.tables(graph, 0):
        file.length(tensor, 0, 4)
        file.length(tensor, 3)
        quantisation = file.table(tensor, 4)
        for field, size in _LISTS:
            file.length(quantisation, field, size)
        file.length(tensor, 7, 4)
    for field in (1, 2):
        file.length(graph, field, 4)
    for operator in file.tables(graph, 3):
        for field in (1, 2, 8):
            file.length(operator, field, 4)
        for field in (5, 7):
            file.length(operator, field)
    file.length(graph, 4)
