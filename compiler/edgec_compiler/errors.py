"""Everything that can keep a model from becoming a bundle; each knows its exit code.

CompilerError                    1  what was asked for could not be achieved
├── UsageError                   2  options that make no sense together, or an unreadable input
│   └── ModelFileError           2  not a model, a damaged one, or a kind that is refused
├── UnsupportedOperatorError     1  the model has an operator that the importer cannot express
├── PassError                    1  a graph pass broke its own promise
├── ConversionError              1  a converter refused the model or crashed
├── TrainingError                1  the user's own training or student fails
├── NotAchievedError             1  a budget was missed, or a verification failed
├── MissingExtraError            3  an optional part of edgec or a vendor tool is not installed
└── ServerError                  4  the fleet server refused, or could not be reached
"""


class CompilerError(Exception):
    """The compiler could not do what was asked for."""

    exit_code = 1


class UsageError(CompilerError):
    """Options that make no sense together, or an input that cannot be read."""

    exit_code = 2


class ModelFileError(UsageError):
    """The file is not a model, is damaged, or is of a kind that is refused."""


class UnsupportedOperatorError(CompilerError):
    """The model has an operator that the importer cannot express.

    Attributes:
        op: the operator's type, such as "NonZero".
        output: the name of its first output, which identifies it in the file.
        reason: what is missing.
    """

    def __init__(self, op: str, output: str, reason: str) -> None:
        super().__init__(f"operator {op} (output '{output}'): {reason}")
        self.op = op
        self.output = output
        self.reason = reason


class PassError(CompilerError):
    """A graph pass broke its own promise: a defect of edgec, told with the pass's name."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"pass {name}: {problem}")
        self.name = name


class ConversionError(CompilerError):
    """A converter refused the model or crashed."""


class TrainingError(CompilerError):
    """The user's own code, called to train or to make a student, fails."""


class NotAchievedError(CompilerError):
    """A budget was missed, or a verification failed."""


class MissingExtraError(CompilerError):
    """An optional part of edgec, or a vendor's tool, is not installed."""

    exit_code = 3

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'edgec[{extra}]'")
        self.extra = extra


class ServerError(CompilerError):
    """The fleet server refused, or could not be reached."""

    exit_code = 4
