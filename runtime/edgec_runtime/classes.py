"""Reads a decision out of final outputs: which class, with what score, and whether two agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgec_bundle.manifest import Manifest, TensorSpec
from edgec_runtime.errors import DataError
from edgec_runtime.session import Array

MAX_LABELS_BYTES = 1 << 24
RELATIVE_DIFFERENCE = 0.1  # how far two outputs that are no classes may be apart and still agree

Kind = Literal["scores", "class", "ranking", "map"]
# What a tensor's `meaning` says about it. Any other meaning leaves it to dtype and shape.
_MEANINGS: dict[str, Kind | None] = {
    "probabilities": "scores",
    "logits": "scores",
    "scores": "scores",
    "class": "class",
    "classes": "ranking",
    "segmentation": "map",
    "values": None,
    "embedding": None,
    "boxes": None,
    "audio": None,
    "image": None,
}


@dataclass(frozen=True, slots=True)
class Head:
    """The output that names the class, and how.

    scores:  float [N, C], the greatest wins.      class: integer [N].
    ranking: integer [N, k] of a top_k, best first. map: integer [N, ...], a class per place.
    """

    output: str
    kind: Kind
    scores: str | None  # the output with the scores, of the same shape for a ranking
    probabilities: bool  # the scores lie in 0..1


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one row was classified as."""

    index: int
    label: str | None  # None: no labels, or the index lies outside them
    score: float | None  # None: the model names the class only


def head_of(manifest: Manifest) -> Head | None:
    """Return which output names the class, or None if the model does not classify.

    The first output that qualifies wins; a ranking goes before the scores it ranks.
    """
    kinds = [(spec, _kind(spec)) for spec in manifest.outputs]
    ranked = next((spec for spec, kind in kinds if kind == "ranking"), None)
    scored = next((spec for spec, kind in kinds if kind == "scores"), None)
    probabilities = scored is not None and scored.meaning == "probabilities"
    if ranked is not None:
        same = scored is not None and scored.shape[1:] == ranked.shape[1:]
        scores = scored.name if scored is not None and same else None
        return Head(ranked.name, "ranking", scores, probabilities and same)
    for spec, kind in kinds:
        if kind is not None:
            own = kind == "scores"
            return Head(spec.name, kind, spec.name if own else None, own and probabilities)
    return None


def _kind(spec: TensorSpec) -> Kind | None:
    rank, is_float = len(spec.shape), spec.dtype.startswith("float")
    is_integer = spec.dtype.lstrip("u").startswith("int")
    fits: dict[Kind, bool] = {
        "scores": is_float and rank == 2 and spec.shape[1] not in (0, 1),
        "class": is_integer and rank == 1,
        "ranking": is_integer and rank == 2,
        "map": is_integer and rank >= 2,
    }
    if spec.meaning in _MEANINGS:
        kind = _MEANINGS[spec.meaning]
        return kind if kind is not None and fits[kind] else None
    kinds: tuple[Kind, ...] = ("scores", "class")
    return next((kind for kind in kinds if fits[kind]), None)


def predicted(head: Head, outputs: Mapping[str, Array]) -> Array:
    """Return the class of every row as int64: [N], or [N, ...] for a map."""
    value = outputs[head.output]
    if head.kind == "scores":
        value = value.argmax(axis=1)
    elif head.kind == "ranking":
        value = value[:, 0]
    return value.astype(np.int64)


def scores(head: Head, outputs: Mapping[str, Array]) -> Array | None:
    """Return the winning score of every row as float32 [N], or None if there are no scores."""
    if head.scores is None:
        return None
    value = outputs[head.scores]
    best = value[:, 0] if head.kind == "ranking" else value.max(axis=1)
    winners: Array = best.astype(np.float32)
    return winners


def predictions(
    head: Head, outputs: Mapping[str, Array], labels: Sequence[str]
) -> tuple[Prediction, ...]:
    """Return one prediction per row. Raises ValueError for a map."""
    if head.kind == "map":
        raise ValueError("a map has a class per place, not per row")
    found = scores(head, outputs)
    return tuple(
        Prediction(
            int(index),
            labels[index] if 0 <= index < len(labels) else None,
            None if found is None else float(found[row]),
        )
        for row, index in enumerate(predicted(head, outputs))
    )


def agreement_by_row(
    manifest: Manifest, one: Mapping[str, Array], other: Mapping[str, Array]
) -> Array:
    """Return, for two final outputs of the same inputs, how far they agree: float64 [N] in 0..1.

    A classifier's row agrees (1) or not (0) by its class; a map agrees to the share of equal
    places. Other float outputs agree if they differ, as vectors, by at most a tenth of `one`'s
    length; other integer outputs if they are equal. Outputs of different shapes do not agree.
    """
    head = head_of(manifest)
    if head is not None:
        return share(predicted(head, one), predicted(head, other))
    return values_agree(one, other)


def share(one: Array, other: Array) -> Array:
    """Return per row the share of equal places, float64 [N]; 0 where the shapes differ."""
    if one.shape != other.shape:
        return np.zeros(len(one))
    equal: Array = (one == other).reshape(len(one), -1).mean(axis=1)
    return equal


def values_agree(one: Mapping[str, Array], other: Mapping[str, Array]) -> Array:
    """Return 1 or 0 per row: whether outputs that are no classes agree. float64 [N]."""
    agreed = np.ones(len(next(iter(one.values()))))
    for name, value in one.items():
        against = other[name]
        if value.shape == against.shape and value.dtype.kind == "f":
            agreed *= _near(value, against)
        else:
            agreed *= share(value, against) == 1
    return agreed


def _near(one: Array, other: Array) -> Array:
    first, second = (value.reshape(len(value), -1).astype(np.float64) for value in (one, other))
    distance = np.linalg.norm(first - second, axis=1)
    near: Array = distance <= RELATIVE_DIFFERENCE * np.linalg.norm(first, axis=1)
    return near


def parse_labels(payload: bytes) -> tuple[str, ...]:
    """Return the labels of a labels file: UTF-8, one per line, line 0 names class 0.

    Raises:
        DataError: too long, or not UTF-8.
    """
    if len(payload) > MAX_LABELS_BYTES:
        raise DataError(f"labels: expected at most {MAX_LABELS_BYTES} bytes, got {len(payload)}")
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"labels: not UTF-8 at byte {error.start}") from error
    lines = [line.strip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)
