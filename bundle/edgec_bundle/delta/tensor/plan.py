"""What the encoder does with each part of the new file, before any element is coded."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor import skeleton
from edgec_bundle.delta.tensor.index import tensors_of
from edgec_bundle.delta.tensor.matching import candidates
from edgec_bundle.delta.tensor.model import Bytes, Tensor
from edgec_bundle.delta.tensor.record import PRODUCT, QUOTIENT, Add, Copy, Literal
from edgec_bundle.delta.tensor.rows import Rows

MIN_TENSOR_BYTES = 16  # smaller ones are left to the byte-level diff
_MAX_VECTOR = 1 << 16
_MAX_ALIKE = 512  # vectors of one length that are tried as factors of each other
_LEAST_PACKED, _LEAST_SAME = 256, 0.03  # bytes of a tensor; share of them that are as before
_SCALE_SUFFIXES = ("/scale", "_scale")


@dataclass(frozen=True, slots=True)
class Derivation:
    """A vector of scales that others in the new file determine, as product or quotient."""

    kind: int
    first: int  # offset of a vector of the same length
    second: int  # offset of a single number


@dataclass(frozen=True, slots=True)
class Work:
    """A new tensor that differs from every old one.

    Attributes:
        tensor: the new one.
        sources: old ones that it may come from.
        derivation: how it follows from others, if it does.
        scales: offsets of the old and new scales of its elements, if known.
    """

    tensor: Tensor
    sources: tuple[Tensor, ...]
    derivation: Derivation | None = None
    scales: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """How many bytes of the new file it makes."""
        return self.tensor.size


Step = Copy | Add | Literal | Work


def plan(old: Bytes, new: Bytes) -> list[Step]:
    """Return the steps that make `new` from `old`."""
    old_tensors, new_all = tensors_of(old), list(tensors_of(new))
    new_tensors = [one for one in new_all if one.size >= MIN_TENSOR_BYTES]
    old_kept = [one for one in old_tensors if one.size >= MIN_TENSOR_BYTES]
    if not new_tensors or not old_kept:  # one of them is no model: compare all bytes
        new_all = new_tensors = old_kept = []
    sources = candidates(old_kept, new_tensors, old, new)
    old_scales = {one.name: one for one in old_tensors if one.dtype == "float32"}
    new_scales = {one.name: one for one in new_all if one.dtype == "float32"}
    small = [one for one in new_all if one.size < MIN_TENSOR_BYTES]
    gaps = skeleton.compare(old, new, old_kept, new_tensors, small)
    made = [_step(old, new, one, found) for one, found in zip(new_tensors, sources, strict=True)]
    changed = {step.tensor.offset for step in made if isinstance(step, Work)}
    derivations = _derivations(new, new_all, changed)
    steps: list[Step] = list(gaps[0])
    rows = Rows(old_kept, old)
    for step, gap in zip(made, gaps[1:], strict=True):
        if isinstance(step, Work):
            step = replace(step, derivation=derivations.get(step.tensor.offset))
            step = _with_scales(step, old_scales, new_scales) if step.sources else step
        steps += [*_by_rows(step, rows, old, new), *gap]
    return list(_merged(steps))


def _by_rows(step: Step, rows: Rows, old: Bytes, new: Bytes) -> list[Step]:
    """Return `step`, or several where its rows come from other places than the whole."""
    if not isinstance(step, Work) or step.derivation is not None:
        return [step]
    parts = rows.pieces(step.tensor, step.sources, new)
    return [_step(old, new, part, sources) for part, sources in parts] or [step]


def _step(old: Bytes, new: Bytes, tensor: Tensor, sources: tuple[Tensor, ...]) -> Step:
    data = new[tensor.offset : tensor.end]
    for source in sources:
        if source.size == tensor.size and old[source.offset : source.end] == data:
            return Copy(tensor.size, source.offset)
    if sources and _holds_halves(old[sources[0].offset : sources[0].end], data, tensor):
        blocks = (*tensor.shape[:-1], 2 * tensor.shape[-1])
        tensor = replace(tensor, dtype="int4", shape=blocks)
    return Work(tensor, sources)


def _holds_halves(old: bytes, new: bytes, tensor: Tensor) -> bool:
    """Return whether each byte is two numbers of 4 bits, as operators of few bits pack them.

    No file says so. But then the upper half alone changes as often as the lower one alone, while
    a single number that moves a little changes its lower half.
    """
    if tensor.dtype != "uint8" or len(old) != len(new) or tensor.size < _LEAST_PACKED:
        return False
    changed = np.frombuffer(old, np.uint8) ^ np.frombuffer(new, np.uint8)
    low, high = changed & 15 != 0, changed >> 4 != 0
    only_low, only_high = int((low & ~high).sum()), int((high & ~low).sum())
    is_alike = int((changed == 0).sum()) >= _LEAST_SAME * len(changed)
    return is_alike and only_high * 2 > only_low


def _with_scales(work: Work, old: dict[str, Tensor], new: dict[str, Tensor]) -> Work:
    tensor, source = work.tensor, work.sources[0]
    if tensor.dtype != "int32" or source.size != tensor.size:
        return work
    for suffix in _SCALE_SUFFIXES:
        before, after = old.get(source.name + suffix), new.get(tensor.name + suffix)
        if before and after and before.size == after.size == tensor.size:
            return Work(tensor, work.sources, None, (before.offset, after.offset))
    return work


def _merged(steps: Sequence[Step]) -> Iterator[Step]:
    plain: list[skeleton.Plain] = []
    for step in steps:
        if isinstance(step, Work):
            yield from skeleton.merged(plain)
            plain.clear()
            yield step
        else:
            plain.append(step)
    yield from skeleton.merged(plain)


def _derivations(
    new: Bytes, tensors: Sequence[Tensor], changed: Collection[int]
) -> dict[int, Derivation]:
    """Return what follows from what, by the offset of the tensor that follows.

    A bias's scale is the product of the input's scale and the weights' scales, as the runtimes
    define it; which of the two vectors comes first in the file is up to the exporter. Where only
    one of them is in `changed`, that one follows.
    """
    floats = [one for one in tensors if one.dtype == "float32" and one.size <= 4 * _MAX_VECTOR]
    values = {one.offset: np.frombuffer(new[one.offset : one.end], "<f4") for one in floats}
    singles = sorted(
        (abs(float(values[one.offset][0])), one.offset)
        for one in floats
        if one.size == 4 and np.isfinite(values[one.offset][0])
    )
    alike: dict[int, list[int]] = defaultdict(list)
    for one in floats:
        if one.size >= MIN_TENSOR_BYTES:
            alike[one.size].append(one.offset)
    found: dict[int, Derivation] = {}
    for offsets in alike.values():
        for product in offsets[:_MAX_ALIKE]:
            _derive(product, offsets[:_MAX_ALIKE], values, singles, changed, found)
    return found


def _derive(
    product: int,
    offsets: Sequence[int],
    values: dict[int, npt.NDArray[np.float32]],
    singles: Sequence[tuple[float, int]],
    changed: Collection[int],
    found: dict[int, Derivation],
) -> None:
    """Note it in `found` if the vector at `product` is another one times a single number."""
    wanted = values[product]
    with np.errstate(all="ignore"):  # a signalling NaN is told of by the cast alone
        heads = np.array([values[one][:2] for one in offsets], np.float64)
        factors = wanted[:2].astype(np.float64) / heads
        is_near = np.abs(factors[:, 0] / factors[:, 1] - 1) < 1e-5
    sizes = np.array([size for size, _ in singles])
    for at in np.flatnonzero(is_near).tolist():
        vector, factor = offsets[at], abs(float(factors[at, 0]))
        if vector == product:
            continue
        first, last = np.searchsorted(sizes, (factor * 0.99999, factor * 1.00001))
        for _, single in singles[first : min(int(last), int(first) + 8)]:
            with np.errstate(all="ignore"):
                is_product = np.array_equal(values[vector] * values[single][0], wanted)
            source, made = sorted((product, vector), key=lambda one: (one in changed, one))
            if is_product and made in changed and made not in found and source not in found:
                kind = PRODUCT if made == product else QUOTIENT
                found[made] = Derivation(kind, source, single)
                return
