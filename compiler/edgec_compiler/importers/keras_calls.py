"""How the layers of a functional model call each other: Keras 2's way of writing it in Keras 3's.

Keras 2 writes a tensor as [layer, call, output], and counts the calls of a model in a model from 1
(call 0 is the one that made it). Keras 3 counts them from 0, and takes that form for what a layer
is given first alone: a tensor among the other arguments, as an attention's value is, it does not
see. The states that a recurrent layer starts from follow its input there, as if they were inputs;
Keras 3 has an argument for them. Here every call of the old form is written in the new one.
"""

from typing import Any

Config = dict[str, Any]

_MODELS = ("Functional", "Model", "Sequential")
_RECURRENT = ("Bidirectional", "ConvLSTM2D", "GRU", "LSTM", "RNN", "SimpleRNN")
_REFERENCE = 3  # layer, call, output


def with_calls_of_keras_3(config: Config) -> Config:
    """Return a functional model's configuration with its calls in the new form."""
    layers = config.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        return config
    names = {layer.get("name"): layer.get("class_name") for layer in layers}
    nodes = [layer.get("inbound_nodes") for layer in layers]
    referred = [one for part in (*nodes, config.get("output_layers")) for one in _found(part)]
    late = {
        name
        for name, kind in names.items()
        if kind in _MODELS and min((c for n, c, _ in referred if n == name), default=0) > 0
    }
    made = [
        {
            **layer,
            "inbound_nodes": [_call(node, names, late, layer) for node in layer["inbound_nodes"]],
        }
        if isinstance(layer.get("inbound_nodes"), list)
        else layer
        for layer in layers
    ]
    ends = config.get("output_layers")
    sequential = {name for name in late if names[name] == "Sequential"}
    return {**config, "layers": made, "output_layers": _earlier(ends, sequential)}


def _call(node: Any, names: dict[Any, Any], late: set[Any], layer: Config) -> Any:
    """Return one call of `layer`; one of the new form as it is."""
    if not isinstance(node, list) or not all(_is_reference(one[:_REFERENCE]) for one in node):
        return node
    given = [_tensor(one[:_REFERENCE], late) for one in node]
    more = node[0][_REFERENCE] if node and len(node[0]) > _REFERENCE else {}
    kwargs = {key: _argument(value, names, late) for key, value in more.items()}
    if layer.get("class_name") in _RECURRENT and len(given) > 1:
        return {"args": given[:1], "kwargs": {**kwargs, "initial_state": given[1:]}}
    return {"args": given if len(given) == 1 else [given], "kwargs": kwargs}


def _argument(value: Any, names: dict[Any, Any], late: set[Any]) -> Any:
    if _is_reference(value) and value[0] in names:
        return _tensor(value, late)
    return [_argument(one, names, late) for one in value] if isinstance(value, list) else value


def _tensor(reference: list[Any], late: set[Any]) -> Config:
    """Return a tensor for Keras 3, which looks it up: its shape says nothing."""
    history = _earlier(reference, late)
    given = {"shape": [], "dtype": "float32", "keras_history": history}
    return {"class_name": "__keras_tensor__", "config": given}


def _earlier(value: Any, late: set[Any]) -> Any:
    """Return references with the calls of the models in `late` counted from 0."""
    if _is_reference(value):
        return [value[0], value[1] - 1, value[2]] if value[0] in late else value
    return [_earlier(one, late) for one in value] if isinstance(value, list) else value


def _found(value: Any) -> list[list[Any]]:
    """Return every reference of the old form in a value."""
    if isinstance(value, dict):
        return [one for inner in value.values() for one in _found(inner)]
    if not isinstance(value, list):
        return []
    inside = [one for inner in value for one in _found(inner)]
    return [value[:_REFERENCE], *inside] if _is_reference(value[:_REFERENCE]) else inside


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == _REFERENCE
        and isinstance(value[0], str)
        and all(isinstance(number, int) for number in value[1:])
    )
