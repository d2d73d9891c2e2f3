"""Asks the child process that runs a recipe's code, so that a crash there becomes a message."""

from collections.abc import Iterator
from typing import Any

from edgec_compiler.child import Child
from edgec_compiler.deaths import how_it_ended
from edgec_compiler.errors import ConversionError, MissingExtraError
from edgec_compiler.isolated import RemoteError

JSON = dict[str, Any]


def ask(request: JSON) -> Iterator[JSON]:
    """Yield the child's answers to `request`.

    Raises:
        RemoteError: the recipe, or what was asked of it, is at fault.
        ConversionError: the child died; the message shows the end of its log.
        MissingExtraError: the extra `compiler`, or what the recipe imports, is not installed.
    """
    with Child("edgec_compiler.architecture.worker", request) as child:
        for answer in child.answers():
            yield _checked(answer)
        if child.status != 0:
            shown = "".join(f"\n  {line}" for line in child.said())
            raise ConversionError(
                f"the recipe's process {how_it_ended(child.status)}"
                + (f"; it last said:{shown}" if shown else "")
            )


def _checked(answer: JSON) -> JSON:
    if "failed" in answer:
        raise RemoteError(answer["failed"], answer["exit_code"])
    if "missing" in answer:
        raise MissingExtraError("compiler", f"searching (module {answer['missing']})")
    return answer
