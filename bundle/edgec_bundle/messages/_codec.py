"""Hostile bytes to plain JSON, plain JSON to frozen dataclasses, and back.

Order of the checks: strict JSON (length, depth, duplicate names, numbers), no NUL characters, JSON
Schema, and only then objects. Whatever fails raises MessageError.
"""

import base64
import binascii
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import fastjsonschema

from edgec_bundle import strict_json
from edgec_bundle.errors import MessageError

_T = TypeVar("_T")
JSON = Any  # null, bool, int, float, str, list[JSON], dict[str, JSON]

MAX_DEPTH = 16  # objects and arrays inside each other


def load_object(payload: bytes, max_bytes: int) -> dict[str, JSON]:
    """Return the JSON object in `payload`, safe to walk, to store and to write again.

    Raises:
        MessageError: longer than `max_bytes`, or not one well-formed JSON object.
    """
    try:
        raw = strict_json.loads(payload, max_bytes=max_bytes, max_depth=MAX_DEPTH)
    except ValueError as error:
        raise MessageError(f"not a message: {error}") from error
    if not isinstance(raw, dict):
        raise MessageError("not a message: expected a JSON object")
    _refuse_nul(raw)
    return raw


def dump_object(raw: Mapping[str, JSON], max_bytes: int) -> bytes:
    """Return `raw` as compact UTF-8 JSON with sorted names.

    Raises:
        MessageError: longer than `max_bytes`, or `raw` holds what JSON can't carry.
    """
    try:
        raw = strict_json.plain(raw, MAX_DEPTH)
    except ValueError as error:
        raise MessageError(f"not a message: {error}") from error
    _refuse_nul(raw)
    payload = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    if len(payload) > max_bytes:
        raise MessageError(f"expected at most {max_bytes} bytes, got {len(payload)}")
    return payload


def _refuse_nul(raw: JSON) -> None:
    """Raise MessageError for NUL characters, which PostgreSQL can't store."""
    pending = [raw]
    while pending:
        match pending.pop():
            case str() as text if "\0" in text:
                raise MessageError("expected text without NUL characters")
            case dict() as found:
                pending.extend(found)
                pending.extend(found.values())
            case list() as found:
                pending.extend(found)


@cache
def schema(kind: str) -> dict[str, JSON]:
    """Return the JSON Schema (draft 7) of messages of `kind`. Don't change what is returned."""
    folder = resources.files("edgec_bundle.messages").joinpath("schemas")
    found: dict[str, JSON] = json.loads(folder.joinpath(f"{kind}.json").read_bytes())
    return found


def example(kind: str) -> bytes:
    """Return the golden example of `kind`: a valid message that uses every field."""
    folder = resources.files("edgec_bundle.messages").joinpath("examples")
    return folder.joinpath(f"{kind}.json").read_bytes()


@cache
def _validator(kind: str) -> Callable[[JSON], JSON]:
    validate: Callable[[JSON], JSON] = fastjsonschema.compile(schema(kind), use_default=False)
    return validate


def check_schema(kind: str, raw: dict[str, JSON]) -> None:
    """Raise MessageError, naming the field, if `raw` is not a message of `kind`."""
    try:
        _validator(kind)(raw)
    except fastjsonschema.JsonSchemaValueException as error:
        field = ".".join(str(part) for part in error.path[1:]) or "message"
        raise MessageError(f"{kind}: {field} breaks its rule {error.rule!r}") from error


def plain(value: object) -> JSON:
    """Return `value` (a dataclass, bytes, tuple, mapping or scalar) as plain JSON."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def build(cls: type[_T], raw: Mapping[str, JSON]) -> _T:
    """Return the dataclass `cls` from schema-checked JSON; names that it doesn't know are left out.

    Raises:
        MessageError: a field is missing or of another type, or base64 is malformed.
    """
    hints = _hints(cls)  # type: ignore[arg-type]  # classes are hashable
    found = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in raw:
            found[field.name] = _convert(hints[field.name], raw[field.name], field.name)
    try:
        return cls(**found)
    except TypeError as error:
        raise MessageError(f"{cls.__name__}: a field is missing") from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(hint: Any, raw: JSON, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return raw
    if origin in (types.UnionType, typing.Union):
        if raw is None:
            return None
        (hint,) = (item for item in arguments if item is not types.NoneType)
        return _convert(hint, raw, name)
    if origin is tuple and isinstance(raw, list):
        return tuple(_convert(arguments[0], item, name) for item in raw)
    if origin is Mapping and isinstance(raw, dict):
        return {key: _convert(arguments[1], item, name) for key, item in raw.items()}
    if dataclasses.is_dataclass(hint) and isinstance(raw, dict):
        return build(hint, raw)  # type: ignore[arg-type]
    return _scalar(hint, raw, name)


def _scalar(hint: Any, raw: JSON, name: str) -> Any:
    match raw:
        case bool() if hint is bool:
            return raw
        case str() if hint is str:
            return raw
        case str() if hint is bytes:
            return _unbase64(raw, name)
        case int() | float() if not isinstance(raw, bool):
            if hint is float:
                return float(raw)
            if hint is int and raw == int(raw):  # JSON Schema calls 1.0 an integer too
                return int(raw)
    raise MessageError(f"{name}: unexpected {type(raw).__name__}")


def _unbase64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"{name}: not base64") from error
