"""Which of the layers that shall stay in float each target of a run has.

Forms of different formats call their layers differently, so that in a run for several targets a
name that one does not know may well be another's. What no target knows is a mistake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgec_compiler.errors import CompilerError, UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.planning import Plan
from edgec_compiler.quantise.layers import Layer, find, no_such_layer
from edgec_compiler.variants import evened, layers_of


def settled(plans: Sequence[Plan], forms: Forms) -> tuple[Plan, ...]:
    """Return `plans` with the layers that each target has, and a note where it lacks some.

    A target whose layers are not known keeps its plan: the model cannot be converted for it, or
    keeps its own quantisation, and who makes it will say so.

    Raises:
        UsageError: no target has a layer of this name; the message has the nearest names.
    """
    known = {one.profile.name: _layers(one, forms) for one in plans if one.recipe.float_layers}
    known = {target: layers for target, layers in known.items() if layers}
    if len(known) == sum(bool(one.recipe.float_layers) for one in plans):
        _refuse_unknown(plans, known)
    return tuple(
        _with_own(one, known[one.profile.name]) if one.profile.name in known else one
        for one in plans
    )


def _layers(one: Plan, forms: Forms) -> tuple[Layer, ...]:
    try:
        forms, _ = evened(forms, one.format, one.recipe)
        made = forms.is_made(one.format)
        return layers_of(forms, one.profile, one.format) if made else ()
    except CompilerError:
        return ()


def _refuse_unknown(plans: Sequence[Plan], known: Mapping[str, Sequence[Layer]]) -> None:
    names = dict.fromkeys(name for one in plans for name in one.recipe.float_layers)
    for name in names:
        if known and not any(find(layers, name) for layers in known.values()):
            everything = {layer.name: layer for layers in known.values() for layer in layers}
            raise UsageError(no_such_layer(name, tuple(everything.values())))


def _with_own(one: Plan, layers: Sequence[Layer]) -> Plan:
    found = {name: find(layers, name) for name in one.recipe.float_layers}
    own = tuple(dict.fromkeys(layer.name for layer in found.values() if layer is not None))
    lacking = [name for name, layer in found.items() if layer is None]
    recipe = replace(one.recipe, float_layers=own)
    if not lacking:
        return replace(one, recipe=recipe)
    said = f"--float-layer {', '.join(lacking)}: no layer of the {one.format} form, so not applied"
    return replace(one, recipe=recipe, note="; ".join([*([one.note] if one.note else []), said]))
