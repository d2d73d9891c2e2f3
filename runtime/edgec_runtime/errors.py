"""Everything that can go wrong between a raw input and a final output.

RunError
├── RuntimeMissingError  the runtime that the manifest asks for is absent or too old
├── ModelError           the runtime cannot load or run these model bytes
├── UnsupportedError     the manifest asks for a feature that this runtime does not know
├── SpecError            the manifest's steps or interface make no sense
├── InputError           what the caller passed does not fit the public interface
│   └── StepError        ... and a preprocessing step found it
├── OutputError          the model's output does not fit what the manifest promises
└── DataError            an .npz, folder of images or labels file cannot be read as data
"""


class RunError(Exception):
    """A bundle cannot be run on an input."""


class RuntimeMissingError(RunError):
    """The runtime that the manifest asks for is absent or too old."""

    def __init__(self, runtime: str, needed: str | None, found: str | None) -> None:
        wanted = f"{runtime} {needed} or newer" if needed else runtime
        super().__init__(f"expected {wanted}, found {found or 'none'}")
        self.runtime = runtime
        self.needed = needed
        self.found = found


class ModelError(RunError):
    """The runtime cannot load or run these model bytes."""


class UnsupportedError(RunError):
    """The manifest asks for features that this runtime does not know."""

    def __init__(self, features: tuple[str, ...]) -> None:
        super().__init__(f"this runtime does not know: {', '.join(features)}")
        self.features = features


class SpecError(RunError):
    """The manifest's steps or interface make no sense."""


class InputError(RunError):
    """What the caller passed does not fit the public interface.

    Attributes:
        tensor: name of the public input at fault, or None if it concerns all of them.
        row: number of the row at fault, from 0, or None if it concerns all rows.
    """

    def __init__(self, problem: str, *, tensor: str | None = None, row: int | None = None) -> None:
        super().__init__(f"{_where('input', tensor, row)}{problem}")
        self.problem = problem
        self.tensor = tensor
        self.row = row

    def moved(self, rows: int) -> "InputError":
        """Return the same error about a row that lies `rows` further on."""
        row = None if self.row is None else self.row + rows
        return InputError(self.problem, tensor=self.tensor, row=row)


class StepError(InputError):
    """A preprocessing step refuses a value. `step` is its op."""

    def __init__(
        self, problem: str, *, step: str, tensor: str | None = None, row: int | None = None
    ) -> None:
        super().__init__(f"{step}: {problem}", tensor=tensor, row=row)
        self.step = step

    def moved(self, rows: int) -> "StepError":
        """Return the same error about a row that lies `rows` further on."""
        problem = self.problem.removeprefix(f"{self.step}: ")
        row = None if self.row is None else self.row + rows
        return StepError(problem, step=self.step, tensor=self.tensor, row=row)


class OutputError(RunError):
    """The model's output does not fit what the manifest promises."""

    def __init__(self, problem: str, *, tensor: str | None = None, row: int | None = None) -> None:
        super().__init__(f"{_where('output', tensor, row)}{problem}")
        self.problem = problem
        self.tensor = tensor
        self.row = row


class DataError(RunError):
    """An .npz, a folder of images or a labels file cannot be read as data."""


def _where(kind: str, tensor: str | None, row: int | None) -> str:
    if tensor is None:
        return ""
    return f"{kind} '{tensor}'" + ("" if row is None else f", row {row}") + ": "
