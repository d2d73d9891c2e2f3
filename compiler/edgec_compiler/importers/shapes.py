"""Fixes the free axes of a model's inputs: the batch becomes 1, others need --shape."""

from collections.abc import Mapping, Sequence

from edgec_compiler.errors import UsageError

Shapes = Mapping[str, tuple[int, ...]]


def parse_shapes(options: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return {input: shape} of options such as "image=1,3,224,224".

    Raises:
        UsageError: an option is not of that form.
    """
    shapes = {}
    for option in options:
        name, _, sizes = option.rpartition("=")
        parts = sizes.split(",")
        if not name or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UsageError(f"--shape {option}: expected NAME=1,3,224,224")
        if name in shapes:
            raise UsageError(f"--shape: '{name}' is given twice")
        shapes[name] = tuple(map(int, parts))
    return shapes


def fixed_shape(name: str, declared: Sequence[int | str | None], wanted: Shapes) -> tuple[int, ...]:
    """Return the static shape of input `name`.

    Args:
        name: the input.
        declared: the file's shape; anything but a positive int is a free axis.
        wanted: what --shape says, by input.

    Raises:
        UsageError: a free axis other than the batch is not given, or `wanted` contradicts.
    """
    given = wanted.get(name)
    if given is None:
        shape = [_size(size, 1 if axis == 0 else None) for axis, size in enumerate(declared)]
        if None in shape:
            shown = ",".join(str(size) if size else "N" for size in shape)
            raise UsageError(
                f"input '{name}' has a free axis in shape {list(declared)}: "
                f"fix it with --shape {name}={shown}"
            )
        return tuple(size for size in shape if size is not None)
    fits = len(given) == len(declared) and all(
        _size(size, new) == new for size, new in zip(declared, given, strict=True)
    )
    if not fits:
        raise UsageError(f"--shape {name}={list(given)} does not fit the model's {list(declared)}")
    return given


def refuse_unknown(wanted: Shapes, names: Sequence[str]) -> None:
    """Raise UsageError if --shape names an input that the model does not have."""
    if unknown := sorted(set(wanted) - set(names)):
        raise UsageError(
            f"--shape: the model has no input '{unknown[0]}'; its inputs are {', '.join(names)}"
        )


def _size(size: int | str | None, free: int | None) -> int | None:
    return size if isinstance(size, int) and size > 0 else free
