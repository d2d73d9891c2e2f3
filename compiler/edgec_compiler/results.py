"""What a compile run says of each target: a bundle's facts, or why there is none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from edgec_bundle.errors import BundleError
from edgec_compiler.errors import CompilerError
from edgec_compiler.search.searching import BudgetMissedError
from edgec_runtime.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One target's bundle as `--json` prints it, or why there is none."""

    target: str
    facts: Mapping[str, Any] | None
    error: str | None = None
    exit_code: int = 0
    reads: tuple[str, ...] = ()  # files beside the model that belong to it
    details: Mapping[str, Any] | None = None  # of a missed budget: the best, and what is to blame


def failure(target: str, error: object, exit_code: int = CompilerError.exit_code) -> TargetResult:
    """Return that `target` has no bundle because of `error`."""
    said = str(error)
    named = said if target in said else f"{target}: {said}"
    details = None
    if isinstance(error, BudgetMissedError):
        details = {"best": error.best, "blame": error.blame, "search": error.search}
    return TargetResult(target, None, named, exit_code, details=details)


def attempted(target: str, work: Callable[[], T]) -> T | TargetResult:
    """Return what comes of `work`, or that `target` has no bundle and why."""
    try:
        return work()
    except CompilerError as error:
        return failure(target, error, error.exit_code)
    except (BundleError, RunError, OSError) as error:
        return failure(target, error)
    except MemoryError:
        return failure(target, "not enough memory")
