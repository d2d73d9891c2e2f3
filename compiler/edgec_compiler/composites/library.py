"""Defines operators of our own in torch's namespace `edgec`."""

from collections.abc import Callable
from typing import Any

import torch

# Untyped in torch; its operators live as long as it does.
_LIBRARY: Any = torch.library.Library("edgec", "DEF")  # type: ignore[no-untyped-call]

PARTS: dict[Any, Callable[..., Any]] = {}  # what a composite computes, by its operator


def composite(schema: str, parts: Callable[..., Any]) -> Any:
    """Return the new operator `edgec::schema`, which is captured whole and computes `parts`."""
    name = _LIBRARY.define(schema)
    _LIBRARY.impl(name, parts, "CompositeImplicitAutograd")
    made = getattr(torch.ops.edgec, name).default
    PARTS[made] = parts
    return made


def opaque(schema: str, run: Callable[..., Any], shape: Callable[..., Any]) -> Any:
    """Return the new operator `edgec::schema` that `run` computes as one, without parts.

    `shape` makes an empty tensor like its result, on the device of its first argument. It is
    registered as the kernel for tensors without values; torch's `register_fake` would first look
    through all imported modules for the file of its caller.
    """
    name = _LIBRARY.define(schema)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, shape, "Meta")
    return getattr(torch.ops.edgec, name).default
