"""Which layer of the deployed model is which layer of the new one."""

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from edgec_compiler.requantise.layer import QuantisedLayer, Signature


def counterparts(
    new: Sequence[QuantisedLayer | None], old: Sequence[QuantisedLayer | None]
) -> dict[int, int]:
    """Return {number of a new layer: number of its old counterpart}.

    First by name, where the name is unique on both sides and kind and shape agree; then, among the
    rest, by the order of kinds and shapes, so that an added or removed layer shifts nothing. A new
    layer of another shape than any old one has no counterpart.
    """
    found = _by_name(new, old)
    taken = set(found.values())
    left = [i for i, layer in enumerate(new) if layer is not None and i not in found]
    free = [i for i, layer in enumerate(old) if layer is not None and i not in taken]
    kinds = SequenceMatcher(None, _signatures(new, left), _signatures(old, free), autojunk=False)
    for block in kinds.get_matching_blocks():
        for step in range(block.size):
            found[left[block.a + step]] = free[block.b + step]
    return found


def _by_name(
    new: Sequence[QuantisedLayer | None], old: Sequence[QuantisedLayer | None]
) -> dict[int, int]:
    places = {layer.name: i for i, layer in enumerate(old) if layer is not None}
    counts = [Counter(one.name for one in side if one is not None) for side in (new, old)]
    found = {}
    for number, layer in enumerate(new):
        if layer is None or not layer.name or layer.name not in places:
            continue
        other = old[places[layer.name]]
        unique = all(count[layer.name] == 1 for count in counts)
        if unique and other is not None and other.signature == layer.signature:
            found[number] = places[layer.name]
    return found


def _signatures(layers: Sequence[QuantisedLayer | None], numbers: Sequence[int]) -> list[Signature]:
    chosen = (layers[number] for number in numbers)
    return [layer.signature for layer in chosen if layer is not None]
