"""Fuzz the decoder of tensor patches: by atheris where it is installed, else by random damage.

    python tests/bundle/delta_tensor/fuzz.py [SECONDS]

Starts from the golden patches. What comes out is a DeltaError or some bytes, in bounded memory
and time; anything else ends the run with the input printed.
"""

import random
import resource
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

try:
    import atheris
except ImportError:
    atheris = None

DECODER = ["edgec_bundle.delta.tensor", "edgec_bundle.delta.header"]

with atheris.instrument_imports(include=DECODER) if atheris else nullcontext():
    from delta_models import GOLDENS, Sink
    from golden_pairs import pairs

    from edgec_bundle.delta.tensor import TENSOR
    from edgec_bundle.delta.tensor.index import tensors_of
    from edgec_bundle.errors import DeltaError
    from edgec_bundle.store import BytesReader

MEMORY_BYTES = 2 << 30
SLOW_S = 20.0
PAIRS = sorted(pairs().items())


def try_one(data: bytes) -> None:
    """Apply `data` as a body; its first byte says to which pair."""
    if not data:
        return
    _, (old, new) = PAIRS[data[0] % len(PAIRS)]
    sink, start = Sink(), time.process_time()
    with suppress(DeltaError):
        TENSOR.apply(BytesReader(data[1:]), BytesReader(old), sink, len(new))
    tensors_of(data[1:])
    if len(sink.data) > len(new) + (2 << 20) or time.process_time() - start > SLOW_S:
        raise RuntimeError(f"too much: {data.hex()}")


def damaged(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return one of `seeds` with a few changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(1, len(data))
        match chance.randrange(5):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + chance.randrange(1, 20)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(1, 20))
            case _:
                other = chance.choice(seeds)
                start = chance.randrange(len(other))
                data[at : at + 16] = other[start : start + chance.randrange(32)]
        if len(data) < 2:
            data += b"\1\0"
    return bytes(data)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    seeds = [
        bytes([number]) + (GOLDENS / f"{name}.{form}").read_bytes()
        for number, (name, _) in enumerate(PAIRS)
        for form in ("tensor", "tensor-planes")
    ]
    if atheris is not None:
        chance = random.Random()

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            chance.seed(seed)
            start = [bytes(data)] if len(data) > 2 and chance.random() < 0.7 else seeds
            return damaged(chance, start)[:most]

        options = [f"-max_total_time={int(seconds)}", "-max_len=8192", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], *options], try_one, custom_mutator=mutate)
        atheris.Fuzz()
        return
    chance, end, tried = random.Random(time.time_ns()), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = damaged(chance, seeds)
        try:
            try_one(data)
        except BaseException:
            print(data.hex())
            raise
        tried += 1
    print(f"{tried} patches, none did harm")


if __name__ == "__main__":
    main()
