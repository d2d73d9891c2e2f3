"""Which TFLite operators have a kernel on int8 tensors, where, and how it wants them quantised.

LiteRT's kernels are what every integer model is judged with; a microcontroller has TFLite Micro's,
by the table of `cortex-m7`. What an accelerator does not take runs on one of the two.
"""

from edgec_hardware_profiles import Profile, load

# What is read is made: one scale for both, since values are only moved or picked.
MOVING = frozenset(
    {
        "BATCH_TO_SPACE_ND",
        "DEPTH_TO_SPACE",
        "EXPAND_DIMS",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "REVERSE_V2",
        "SPACE_TO_BATCH_ND",
        "SPACE_TO_DEPTH",
        "SPLIT_V",
        "SQUEEZE",
        "TILE",
        "TOPK_V2",
    }
)
# Each value makes one value, with a scale of its own.
CURVES = frozenset(
    {"ABS", "ELU", "EXP", "LEAKY_RELU", "LOG", "RELU_0_TO_1", "RELU_N1_TO_1", "RSQRT", "SQRT"}
)
# Scale and zero point that the kernels demand of what they make.
FIXED = {"L2_NORMALIZATION": (1 / 128, 0), "LOG_SOFTMAX": (16 / 256, 127)}
# They make integers or booleans.
ASKING = frozenset(
    {"ARG_MAX", "ARG_MIN", "EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"}
)
_KERNELS = MOVING | CURVES | ASKING | FIXED.keys() | {"SELECT"}
_MICRO = "cortex-m7"


def int8_kernels(profile: Profile) -> frozenset[str]:
    """Return those of the operators above that a target runs on int8 tensors."""
    if profile.runtime.name != "tflite-micro":
        return _KERNELS
    return frozenset(op for op in _KERNELS if _takes(profile, op) or _takes(load(_MICRO), op))


def _takes(profile: Profile, op: str) -> bool:
    support = profile.support
    known = None if support is None else support.operators.get(op)
    if support is None or known is None or not known.supported:
        return False
    return "int8" in (known.dtypes or support.dtypes)
