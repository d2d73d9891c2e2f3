"""Applying goes on where it stopped, and begins before the patch is there whole."""

import numpy as np
import pytest
from delta_models import Sink, Weights, onnx_file

from edgec_bundle.delta.tensor import TENSOR, Applier, encode
from edgec_bundle.delta.tensor.coders import PLANES, RANS
from edgec_bundle.store import BytesReader


@pytest.fixture(scope="module")
def files() -> tuple[bytes, bytes]:
    """Two models of several small records, with scales that follow across records."""
    chance = np.random.default_rng(1)
    single = np.float32(0.01)
    models = []
    for version in (1, 2):
        tensors = [Weights("in", "float32", (1,), single.tobytes())]
        biases = []
        for number in range(4):
            layer = np.random.default_rng(number)
            values = layer.integers(-100, 100, (40, 300)) + (chance.random((40, 300)) < 0.1)
            scales = np.random.default_rng(version * 10 + number).random(40, dtype=np.float32)
            data = values.astype(np.int8).tobytes()
            tensors.append(Weights(f"w{number}", "int8", (40, 300), data, scales.tobytes()))
            product = (single * scales).tobytes()
            biases.append(Weights(f"b{number}", "float32", (40,), product))
        models.append(onnx_file(tensors + biases))
    return models[0], models[1]


@pytest.fixture(scope="module", params=["tensor", "tensor-planes"])
def body(request: pytest.FixtureRequest, files: tuple[bytes, bytes]) -> bytes:
    coders = {PLANES} if request.param == "tensor-planes" else {PLANES, RANS}
    return b"".join(encode(*files, frozenset(coders), record_elements=5_000))


def borders(body: bytes, old: bytes, new: bytes) -> list[tuple[int, int]]:
    """Return (position in the body, bytes made) at each border of records."""
    applier = Applier(BytesReader(body), BytesReader(old), len(new))
    found = [(applier.position, 0)]
    applier.resume(BytesReader(new))  # passes over one record after the other
    assert applier.is_finished
    for size in range(0, len(new), 2_000):
        other = Applier(BytesReader(body), BytesReader(old), len(new))
        other.resume(BytesReader(new[:size]))
        found.append((other.position, other.made))
    return sorted({*found, (applier.position, applier.made)})


def test_it_resumes_at_every_border_of_records(body: bytes, files: tuple[bytes, bytes]) -> None:
    old, new = files
    found = borders(body, old, new)
    assert len(found) > 4

    for _, made in found[::3]:
        on_disk = new[: made + 17]  # a little of the next record was written, too
        applier = Applier(BytesReader(body), BytesReader(old), len(new))
        applier.resume(BytesReader(on_disk))
        assert applier.made == made or made + 17 >= len(new)
        sink = Sink()
        applier.run(sink)
        assert new[: applier.made - len(sink.data)] + sink.data == new
        assert applier.is_finished


def test_bytes_that_rotted_on_disk_are_made_again(body: bytes, files: tuple[bytes, bytes]) -> None:
    old, new = files
    rotten = bytearray(new)
    second = borders(body, old, new)[2][1]
    rotten[second - 5] ^= 1

    applier = Applier(BytesReader(body), BytesReader(old), len(new))
    applier.resume(BytesReader(bytes(rotten)))
    start = applier.made
    sink = Sink()
    applier.run(sink)

    assert start < second
    assert new[:start] + sink.data == new


def test_it_uses_what_has_arrived_so_far(body: bytes, files: tuple[bytes, bytes]) -> None:
    old, new = files
    applier = Applier(BytesReader(body), BytesReader(old), len(new))
    sink = Sink()
    progress = []

    for available in [*range(0, len(body), 500), len(body)]:
        if available < applier.position:
            continue
        applier.run(sink, available)
        progress.append(len(sink.data))
        assert new.startswith(sink.data)

    assert applier.is_finished
    assert sink.data == new
    assert len(set(progress)) > 3


def test_both_engines_of_the_lanes_read_the_same(files: tuple[bytes, bytes], body: bytes) -> None:
    old, new = files
    sink = Sink()

    TENSOR.apply(BytesReader(body), BytesReader(old), sink, len(new))

    assert sink.data == new
