"""What Keras 2 wrote into a configuration, in Keras 3's words. Nothing is loaded here.

Keras 3 reads the weights of older files as they are, and stumbles over their configurations:

1. arguments that say nothing about inference, and that Keras 3 does not know: left out;
2. a shape of the input at a first layer, where Keras 3 has an input layer: made one;
3. models whose module is one of Keras 2: theirs of Keras 3;
4. a sequential model that is a mere list of layers, as Keras before 2.2.3 wrote it: made a dict;
5. a batch normalisation's axis as a list of one: that one;
6. layers that compute in 16 bits: float32, which targets narrow;
7. the calls between the layers of a functional model: see `keras_calls`;
8. layers inside of layers (`TimeDistributed`, `Bidirectional`) that name no module: Keras's.

Everything else is left alone, an argument that says something too: Keras then refuses it.
"""

from typing import Any

from edgec_compiler.importers.keras_calls import with_calls_of_keras_3

Config = dict[str, Any]

_MODELS = {"Functional": "keras.src.models.functional", "Model": "keras", "Sequential": "keras"}
_KERAS_2 = ("tf_keras.", "keras.engine.", "keras.src.engine.")
_POLICIES = ("DTypePolicy", "Policy")
_HALF = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
_INNER = ("layer", "backward_layer", "cell")
# What an argument says where it says nothing.
_DEFAULTS = {"time_major": False, "softmax_robust_masking": False}
_UNGROUPED = (
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
)
# Of no use to a model that is built and trained; a separable convolution's parts have their own.
_IDLE = {
    "MultiHeadAttention": ("query_shape", "key_shape", "value_shape"),
    "SeparableConv1D": ("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "SeparableConv2D": ("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
}


def in_keras_3(value: Any) -> Any:
    """Return a configuration, or a part of one, as Keras 3 takes it; `value` stays as it is."""
    if isinstance(value, list):
        return [in_keras_3(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    made = {key: in_keras_3(inner) for key, inner in value.items()}
    if isinstance(made.get("class_name"), str):
        _translate(made["class_name"], made)
    return made


def _translate(name: str, made: Config) -> None:
    module = made.get("module")
    if name in _MODELS and isinstance(module, str) and module.startswith(_KERAS_2):
        made |= {"module": _MODELS[name], "registered_name": None}
    inside = made.get("config")
    if name in _POLICIES and isinstance(inside, dict) and str(inside.get("name")) in _HALF:
        made["config"] = {**inside, "name": "float32"}
    if name == "MultiHeadAttention" and "input_shape" in (made.get("build_config") or {}):
        del made["build_config"]  # built for one shape of the three that Keras 3 wants
    if name == "Sequential":
        made["config"] = _with_input(made.get("config"))
    elif isinstance(made.get("config"), dict):
        _leave_out(name, made["config"])
        if name in _MODELS:
            made["config"] = with_calls_of_keras_3(made["config"])


def _leave_out(name: str, config: Config) -> None:
    idle = {key: config.get(key) for key in _IDLE.get(name, ())}
    ungrouped = {"groups": 1} if name in _UNGROUPED else {}
    for key, value in (_DEFAULTS | ungrouped | idle).items():
        if key in config and config[key] == value:
            del config[key]
    if config.get("dtype") in _HALF:
        config["dtype"] = "float32"
    for inner in (config.get(key) for key in _INNER):
        if isinstance(inner, dict) and inner.get("class_name") and inner.get("module") is None:
            inner |= {"module": "keras.layers", "registered_name": None}
    if name == "InputLayer" and "batch_input_shape" in config:
        config["batch_shape"] = config.pop("batch_input_shape")
    axis = config.get("axis")
    if name == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]


def _with_input(config: Any) -> Any:
    """Return a sequential model's configuration with an input layer, if its first layer was one."""
    if isinstance(config, list):
        config = {"name": "sequential", "layers": config}
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list) or not layers or not _is_layer(layers[0]):
        return config
    first = layers[0]
    shape = first["config"].get("batch_input_shape")
    for layer in layers:
        if _is_layer(layer):
            layer["config"].pop("batch_input_shape", None)
    if shape is None:
        return config
    dtype = first["config"].get("dtype")
    given = {
        "batch_shape": shape,
        "dtype": dtype if isinstance(dtype, str) else "float32",
        "name": f"{first['config'].get('name', 'layer')}_input",
    }
    module = {} if "module" not in first else {"module": "keras.layers", "registered_name": None}
    config["layers"] = [{"class_name": "InputLayer", "config": given, **module}, *layers]
    return config


def _is_layer(layer: Any) -> bool:
    return isinstance(layer, dict) and isinstance(layer.get("config"), dict)
