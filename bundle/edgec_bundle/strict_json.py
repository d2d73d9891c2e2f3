"""JSON as edgec reads it from strangers: bounded, without duplicates, exactly one meaning.

Python's own reader accepts NaN, keeps the last of two equal keys, guesses UTF-16 and turns
``1e999`` into infinity. This one refuses all of that, and anything nested deeper or longer than
the caller allows, so that two readers can never see two different things in the same bytes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

MAX_INTEGER = 2**53 - 1  # beyond it JSON numbers are not exact (RFC 8785, section 3.2.2.3)
_MAX_NUMBER_CHARACTERS = 40


def loads(payload: bytes, *, max_bytes: int, max_depth: int = 16) -> JSON:
    """Return the value in `payload`, made of dict, list, str, int, float, bool and None.

    Integers beyond 2**53 - 1 come back as float, as every other JSON reader sees them.

    Raises:
        ValueError: too long, too deep, not UTF-8, not JSON, a duplicate key, NaN or infinity,
            or a lone surrogate.
    """
    if len(payload) > max_bytes:
        raise ValueError(f"expected at most {max_bytes} bytes of JSON, got {len(payload)}")
    try:
        value = json.loads(
            payload.decode("utf-8", "strict"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError(f"expected JSON nested at most {max_depth} deep") from None
    checked: JSON = _checked(value, max_depth)
    return checked


def plain(value: object, max_depth: int = 16) -> Any:
    """Return a deep copy of `value` made of JSON's own types: tuples become lists.

    Raises:
        ValueError: `value` holds something that JSON can't carry, or is nested too deep.
    """
    return _checked(value, max_depth)


def _checked(value: object, depth: int) -> Any:
    if depth < 0:
        raise ValueError("JSON is nested too deep")
    match value:
        case None | bool():
            return value
        case int() if type(value) is int and abs(value) <= MAX_INTEGER:
            return value
        case float() if math.isfinite(value):
            return float(value)
        case str():
            return _encodable(value)
        case Mapping():
            return {_key(key): _checked(item, depth - 1) for key, item in value.items()}
        case list() | tuple():
            return [_checked(item, depth - 1) for item in value]
    raise ValueError(f"expected a JSON value, got {type(value).__name__}")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError(f"expected text as key, got {type(key).__name__}")
    return _encodable(key)


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("expected text without lone surrogates") from error
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("expected distinct keys, got the same key twice")
    return result


def _integer(digits: str) -> int | float:
    if len(digits) > _MAX_NUMBER_CHARACTERS:
        raise ValueError(f"expected a number, got one of {len(digits)} digits")
    value = int(digits)
    return value if abs(value) <= MAX_INTEGER else float(value)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected a finite number, got {name}")
