"""The ``tensor`` format: patches that know where a model's weights are.

`plan` compares the files, `fit` finds predictions, `encode` writes records; `applying` reads
them. `lanes` and `tables` are the entropy coder, `assembly` what encoder and decoder share.
docs/reference/delta-tensor.md has every byte.
"""

from edgec_bundle.delta.format import Format
from edgec_bundle.delta.tensor.applying import Applier
from edgec_bundle.delta.tensor.coders import PLANES, RANS
from edgec_bundle.delta.tensor.encode import encode
from edgec_bundle.store import Appender, BlobReader

_ALL = frozenset((PLANES, RANS))
_ONLY_PLANES = frozenset((PLANES,))


def _encode(old: bytes, new: bytes, max_bytes: int) -> bytes:
    return b"".join(encode(old, new, _ALL))


def _apply(body: BlobReader, old: BlobReader, out: Appender, new_bytes: int) -> None:
    Applier(body, old, new_bytes, _ALL).run(out)


def _encode_planes(old: bytes, new: bytes, max_bytes: int) -> bytes:
    return b"".join(encode(old, new, _ONLY_PLANES))


def _apply_planes(body: BlobReader, old: BlobReader, out: Appender, new_bytes: int) -> None:
    Applier(body, old, new_bytes, _ONLY_PLANES).run(out)


TENSOR = Format("tensor", _encode, _apply)
PLANES_ONLY = Format("tensor-planes", _encode_planes, _apply_planes)

__all__ = ["PLANES_ONLY", "TENSOR", "Applier", "encode"]
