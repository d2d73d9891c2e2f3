"""Channels as atoms: which slices of which weights go or stay together.

Every index along an axis that some layer produces is an atom. Operators tie atoms (the two sides of
a residual add), note the weight slices that belong to them (cuts), or hold them (a model's output).
Atoms that are tied, directly or not, form one channel: it is removed everywhere or nowhere.

Source: Fang et al. 2023, DepGraph, arXiv:2301.12900; atoms instead of whole layers make
concatenation, flattening and grouped convolutions follow from the same three moves.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]  # one atom per index along an axis


@dataclass(slots=True)
class Atoms:
    """A union-find over atoms, with the atoms that must stay and the weight slices of each."""

    cuts: dict[tuple[str, int], Ids] = field(default_factory=dict)  # (weight, axis) -> atoms
    produced: list[Ids] = field(default_factory=list)  # one per layer output
    _parent: list[int] = field(default_factory=list)
    _held: list[tuple[Ids, str]] = field(default_factory=list)

    def fresh(self, count: int) -> Ids:
        """Return the atoms of a new layer's `count` outputs."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        made = np.arange(start, start + count, dtype=np.int64)
        self.produced.append(made)
        return made

    def tie(self, one: Ids, other: Ids) -> None:
        """Let `one[i]` and `other[i]` share their fate."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            a, b = self._find(a), self._find(b)
            if a != b:
                self._parent[max(a, b)] = min(a, b)

    def hold(self, ids: Ids, why: str) -> None:
        """Keep these atoms, since `why`."""
        self._held.append((ids, why))

    def cut(self, weight: str, axis: int, ids: Ids) -> None:
        """Note that the slice `i` of `weight` along `axis` belongs to `ids[i]`."""
        known = self.cuts.setdefault((weight, axis), ids)
        if known is not ids:
            self.tie(known, ids)

    def channels(self) -> Ids:
        """Return for every atom the channel it belongs to: the least atom tied to it."""
        return np.array([self._find(atom) for atom in range(len(self._parent))], np.int64)

    def held(self) -> dict[int, str]:
        """Return why each channel that must stay does so."""
        found: dict[int, str] = {}
        for ids, why in self._held:
            for atom in ids.tolist():
                found.setdefault(self._find(atom), why)
        return found

    def _find(self, atom: int) -> int:
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom
