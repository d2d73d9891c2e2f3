"""Which operators a target's accelerator takes, and under what conditions.

Decides what a well-formed support table is; evaluating it against a model is the compiler's part.
A condition speaks about one fact of an operator (`stride_h`, `axes`, `scale_h` ...); the facts and
the meaning of every key are listed in docs/reference/profiles.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from edgec_hardware_profiles._fields import Table

Scalar: TypeAlias = bool | int | float | str

PLACES = ("npu", "gpu", "cpu")
REGIONS = ("any", "one")
KINDS = ("operator", "dtype", "version", "shape", "rank", "limit", "region")
_REASONS = {
    "operator": "the accelerator has no such operator",
    "dtype": "the accelerator does not compute this data type",
    "version": "the accelerator's compiler does not know this version of the operator",
    "shape": "a shape is not fixed when the model is compiled",
    "rank": "too many dimensions",
    "limit": "outside the limits of the accelerator",
    "region": "the accelerator takes one region of the model, and this lies behind its end",
}
_FIXES = {
    "operator": "replace it by operators of the profile's table, or let the CPU run it",
    "dtype": "bring its tensors to a data type of the profile's table, or let the CPU run it",
    "version": "write the model with another version of its converter",
    "shape": "fix the input's shape (--shape NAME=1,3,224,224) and convert again",
    "rank": "reshape its tensors to fewer dimensions",
    "limit": "keep it within the limit, or let the CPU run it",
    "region": "move the operators that are refused to the end of the model",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One demand on one fact. Every comparison that is given must hold; an unknown fact holds."""

    fact: str
    min: float | None = None
    max: float | None = None
    one_of: tuple[Scalar, ...] | None = None
    none_of: tuple[Scalar, ...] | None = None  # also: no item of a list is one of these
    same_as: str | None = None  # another fact
    multiple_of: int | None = None
    only_if: "Condition | None" = None
    reason: str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class OperatorSupport:
    """One operator that the accelerator takes, or a hint about one that it does not."""

    supported: bool = True
    dtypes: tuple[str, ...] | None = None  # of what it computes on; None: as `Mapping.dtypes`
    versions: tuple[int, int] | None = None  # first and last, TFLite's operator versions
    require: tuple[Condition, ...] = ()
    fix: str | None = None  # what to do where no condition says it better
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Support:
    """What a target's accelerator takes of a model."""

    on: str  # one of PLACES
    regions: str  # "one": a single region that nothing re-enters
    dtypes: tuple[str, ...]
    static_shapes: bool
    max_inner_rank: int | None  # dimensions that may exceed 1, counted from the innermost
    reasons: Mapping[str, str]  # kind -> words
    fixes: Mapping[str, str]  # kind -> words
    operators: Mapping[str, OperatorSupport] = field(default_factory=dict)
    ops_of: str | None = None  # the built-in profile whose operators these are, too
    source: str | None = None

    def with_operators_of(self, other: "Support") -> "Support":
        """Return this with the operators of `other`, one's own first."""
        return replace(self, operators={**other.operators, **self.operators}, ops_of=None)


def read_support(mapping: Table, ops: Table) -> Support:
    """Return what the tables `[mapping]` and `[ops]` say. Raises MalformedProfileError."""
    support = Support(
        on=mapping.choice("on", PLACES),
        regions=mapping.choice("regions", REGIONS, default="any"),
        dtypes=mapping.texts("dtypes"),
        static_shapes=mapping.boolean("static_shapes", default=True),
        max_inner_rank=mapping.optional_integer("max_inner_rank"),
        reasons={**_REASONS, **_words(mapping, "reasons")},
        fixes={**_FIXES, **_words(mapping, "fixes")},
        operators={
            **dict.fromkeys(mapping.texts("operators"), OperatorSupport()),
            **{name: _operator(ops.table(name)) for name in ops.names()},
        },
        ops_of=mapping.optional_text("ops_of"),
        source=mapping.optional_text("source"),
    )
    if not support.dtypes:
        mapping.fail("dtypes", "expected at least one data type")
    mapping.refuse_unread()
    return support


def _words(mapping: Table, key: str) -> dict[str, str]:
    table = mapping.table(key, optional=True)
    words = table.strings()
    for kind in words:
        if kind not in KINDS:
            table.fail(kind, f"expected one of {', '.join(KINDS)}")
    return words


def _operator(table: Table) -> OperatorSupport:
    versions = table.array("versions", (int,))
    if versions and not (len(versions) == 2 and 1 <= versions[0] <= versions[1]):
        table.fail("versions", f"expected [first, last], got {list(versions)}")
    support = OperatorSupport(
        supported=table.boolean("supported", default=True),
        dtypes=table.texts("dtypes") or None,
        versions=(versions[0], versions[1]) if versions else None,
        require=tuple(_condition(one) for one in table.tables("require")),
        fix=table.optional_text("fix"),
        source=table.optional_text("source"),
    )
    table.refuse_unread()
    return support


def _condition(table: Table) -> Condition:
    scalars = (bool, int, float, str)
    guard = table.table("only_if") if "only_if" in table else None
    condition = Condition(
        fact=table.text("fact"),
        min=table.optional_number("min"),
        max=table.optional_number("max"),
        one_of=_given(table, "one_of", scalars),
        none_of=_given(table, "none_of", scalars),
        same_as=table.optional_text("same_as"),
        multiple_of=table.optional_integer("multiple_of"),
        only_if=None if guard is None else _condition(guard),
        reason=table.optional_text("reason"),
        fix=table.optional_text("fix"),
    )
    table.refuse_unread()
    compared = (condition.min, condition.max, condition.one_of, condition.none_of)
    if all(value is None for value in (*compared, condition.same_as, condition.multiple_of)):
        table.fail("fact", "expected a comparison beside it: min, max, one_of, none_of, ...")
    if condition.multiple_of is not None and condition.multiple_of < 1:
        table.fail("multiple_of", f"expected 1 or more, got {condition.multiple_of}")
    return condition


def _given(table: Table, key: str, kinds: Sequence[type]) -> tuple[Any, ...] | None:
    return table.array(key, kinds) if key in table else None
