"""Fixes the free axes of a model's inputs: the batch becomes 1, others need --shape.

Axes of one name are of one size: what --shape says of one input holds for the others, and the batch
is the batch wherever it lies.
"""

from collections.abc import Mapping, Sequence

from edgec_compiler.errors import UsageError

Shapes = Mapping[str, tuple[int, ...]]
Declared = Sequence[int | str | None]
_NAMELESS = frozenset(("", "?", "-1", "None", "unk"))  # what exporters call axes that have no name


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


def named_sizes(declared: Mapping[str, Declared], wanted: Shapes) -> dict[str, int]:
    """Return the sizes of axes that have names.

    Args:
        declared: the file's shape of every input; a str is a free axis with a name.
        wanted: what --shape says, by input.
    """
    sizes: dict[str, int] = {}
    for name, shape in declared.items():
        for size, given in zip(shape, wanted.get(name, ()), strict=False):
            if isinstance(size, str):
                sizes.setdefault(size, given)
    for shape in declared.values():
        if shape and isinstance(shape[0], str):
            sizes.setdefault(shape[0], 1)
    return {name: size for name, size in sizes.items() if name not in _NAMELESS}


def fixed_shape(
    name: str, declared: Declared, wanted: Shapes, sizes: Mapping[str, int] | None = None
) -> tuple[int, ...]:
    """Return the static shape of input `name`.

    Args:
        name: the input.
        declared: the file's shape; anything but a positive int is a free axis.
        wanted: what --shape says, by input.
        sizes: of axes that have names, see `named_sizes`.

    Raises:
        UsageError: a free axis other than the batch is not given, or `wanted` contradicts.
    """
    given = wanted.get(name)
    if given is None:
        known = [(sizes or {}).get(size) if isinstance(size, str) else None for size in declared]
        batch = [1 if axis == 0 else None for axis in range(len(declared))]
        shape = [
            _size(size, same or free)
            for size, same, free in zip(declared, known, batch, strict=True)
        ]
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
