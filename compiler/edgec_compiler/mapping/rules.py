"""Judges one operator by a target's support table. No I/O; what a region allows comes later."""

from dataclasses import dataclass

from edgec_compiler.mapping.graph import Fact, ModelGraph, Operator, Tensor
from edgec_hardware_profiles import Condition, OperatorSupport, Support


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an operator does not run on the accelerator."""

    kind: str  # one of edgec_hardware_profiles' kinds
    reason: str  # the target's own words, then what they are about
    fix: str | None


def judge(graph: ModelGraph, operator: Operator, support: Support) -> Refusal | None:
    """Return why `support` does not take `operator`, or None if it does.

    Checked in this order, as vendors' compilers report them: is there such an operator, and does
    it compute on types that the accelerator has; its version; fixed shapes; rank; its own limits.
    An operator on a foreign type is reported for its type, known or not.
    """
    rule = support.operators.get(operator.op)
    return (
        _dtypes(graph, operator, support, rule)
        or _known(graph, operator, support, rule)
        or _version(operator, support, rule)
        or _shapes(graph, operator, support)
        or _limits(graph, operator, support, rule)
    )


def _dtypes(
    graph: ModelGraph, operator: Operator, support: Support, rule: OperatorSupport | None
) -> Refusal | None:
    allowed = (rule.dtypes if rule else None) or support.dtypes
    for tensor in (*graph.data_inputs(operator), *graph.results(operator)):
        if tensor.dtype not in allowed:
            return _refuse(support, rule, "dtype", str(tensor))
    return None


def _known(
    graph: ModelGraph, operator: Operator, support: Support, rule: OperatorSupport | None
) -> Refusal | None:
    if rule is not None and rule.supported:
        return None
    about = ", ".join(map(str, graph.results(operator)[:1]))
    return _refuse(support, rule, "operator", f"{operator.op} making {about}")


def _version(operator: Operator, support: Support, rule: OperatorSupport | None) -> Refusal | None:
    if rule is None or rule.versions is None or operator.version is None:
        return None
    first, last = rule.versions
    if first <= operator.version <= last:
        return None
    return _refuse(
        support, rule, "version", f"version {operator.version}, known are {first} to {last}"
    )


def _shapes(graph: ModelGraph, operator: Operator, support: Support) -> Refusal | None:
    for tensor in (*graph.data_inputs(operator), *graph.results(operator)):
        if support.static_shapes and not tensor.is_static:
            return _refuse(support, None, "shape", str(tensor))
        limit = support.max_inner_rank
        if limit is not None and tensor.inner_rank > limit:
            return _refuse(support, None, "rank", str(tensor))
    return None


def _limits(
    graph: ModelGraph, operator: Operator, support: Support, rule: OperatorSupport | None
) -> Refusal | None:
    for condition in rule.require if rule else ():
        if not holds(condition, operator):
            about = _about(condition, operator, graph)
            return _refuse(support, rule, "limit", about, condition)
    return None


def holds(condition: Condition, operator: Operator) -> bool:
    """Return whether an operator fulfils a condition. What is not known is no reason to refuse."""
    if condition.only_if is not None and not _is_true(condition.only_if, operator):
        return True
    value = operator.facts.get(condition.fact)
    return value is None or _compare(condition, value, operator)


def _is_true(condition: Condition, operator: Operator) -> bool:
    return operator.facts.get(condition.fact) is not None and holds(condition, operator)


def _compare(condition: Condition, value: Fact, operator: Operator) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    numbers = [item for item in items if isinstance(item, int | float)]
    other = None if condition.same_as is None else operator.facts.get(condition.same_as)
    return (
        (condition.min is None or all(number >= condition.min for number in numbers))
        and (condition.max is None or all(number <= condition.max for number in numbers))
        and (condition.one_of is None or all(item in condition.one_of for item in items))
        and (condition.none_of is None or not any(item in condition.none_of for item in items))
        and (
            condition.multiple_of is None
            or all(number % condition.multiple_of == 0 for number in numbers)
        )
        and (other is None or other == value)
    )


def _about(condition: Condition, operator: Operator, graph: ModelGraph) -> str:
    value = operator.facts[condition.fact]
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    tensors = [*graph.data_inputs(operator)[:1], *graph.results(operator)[:1]]
    return f"{condition.fact} {shown}, allowed {_allowed(condition)}; {_arrow(tensors)}"


def _arrow(tensors: list[Tensor]) -> str:
    return " -> ".join(map(str, tensors))


def _allowed(condition: Condition) -> str:
    words = []
    if condition.min is not None:
        words.append(f"from {condition.min:g}")
    if condition.max is not None:
        words.append(f"up to {condition.max:g}")
    if condition.one_of is not None:
        words.append(" or ".join(_word(one) for one in condition.one_of))
    if condition.none_of is not None:
        words.append("not " + " or ".join(_word(one) for one in condition.none_of))
    if condition.multiple_of is not None:
        words.append(f"multiples of {condition.multiple_of}")
    if condition.same_as is not None:
        words.append(f"the same as {condition.same_as}")
    return " ".join(words)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse(
    support: Support,
    rule: OperatorSupport | None,
    kind: str,
    about: str,
    condition: Condition | None = None,
) -> Refusal:
    reason = (condition.reason if condition else None) or support.reasons[kind]
    fix = condition.fix if condition else None
    return Refusal(
        kind, f"{reason}: {about}", fix or (rule.fix if rule else None) or support.fixes.get(kind)
    )
