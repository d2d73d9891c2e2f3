"""Everything that can go wrong in the agent.

AgentError
└── ServingError               a call for inference could not be answered
    ├── RequestError           the caller's request is wrong: repeating it cannot help
    │   └── InvalidInputError  one named input is wrong (shape, dtype, range, ...)
    ├── UnknownModelError      no such model here, or not in that version
    ├── UnavailableError       not now: too busy, or the model is being exchanged
    ├── InferenceError         the model itself failed on a valid request
    ├── ModelLoadError         a model could not be loaded or did not survive its first run
    └── AddressError           a listening address is malformed or must not be used
"""


class AgentError(Exception):
    """The agent cannot do what was asked."""


class ServingError(AgentError):
    """A call for inference could not be answered."""


class RequestError(ServingError):
    """The caller's request is wrong."""


class InvalidInputError(RequestError):
    """One input is wrong; the message names it."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f'input "{name}": {problem}')
        self.name = name
        self.problem = problem


class UnknownModelError(ServingError):
    """The model, or that version of it, is not served here."""

    def __init__(self, model: str, *, version: str | None = None, serving: str | None = None):
        if serving is None:
            text = f'model "{model}" is not served here'
        else:
            text = f'model "{model}" is served in version {serving}, not {version}'
        super().__init__(text)
        self.model = model
        self.version = version


class UnavailableError(ServingError):
    """Not now; the same request may succeed later."""


class InferenceError(ServingError):
    """The model failed on a request that looked valid."""


class ModelLoadError(ServingError):
    """A model could not be loaded, or did not survive its first run."""


class AddressError(ServingError):
    """A listening address is malformed, taken, or must not be used."""
