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
├── ConfigError                agent.toml, a flag or the agent's folder is not usable
│   └── NotEnrolledError       the folder holds no identity yet
├── BusyError                  another agent works on the folder
├── StateError                 state.db is damaged, or was written by a newer agent
├── EnrolmentError             the server, or its proof, is not the one the token names
├── NetworkError               a server cannot be reached, or answers nonsense
├── FetchError                 a blob cannot be fetched now: worth another try later
│   ├── OfflineError           there is no way to any source: to wait for one is no failure
│   ├── NotOfferedError        every way to it says that it is not there
│   └── CorruptBlobError       what came is, again and again, not what was asked for
└── InterruptedWorkError       something more urgent came; what was done so far is kept
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
        super().__init__(f"input '{name}': {problem}")
        self.name = name
        self.problem = problem


class UnknownModelError(ServingError):
    """The model, or that version of it, is not served here."""

    def __init__(self, model: str, *, version: str | None = None, serving: str | None = None):
        if serving is None:
            text = f"model '{model}' is not served here"
        else:
            text = f"model '{model}' is served in version {serving}, not {version}"
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


class ConfigError(AgentError):
    """agent.toml, a flag or the agent's folder is not usable."""


class NotEnrolledError(ConfigError):
    """The folder holds no identity yet."""


class BusyError(AgentError):
    """Another agent works on the folder."""


class StateError(AgentError):
    """state.db is damaged, or was written by a newer agent."""


class EnrolmentError(AgentError):
    """The server, or its proof, is not the one that the token names."""


class NetworkError(AgentError):
    """A server cannot be reached, or answers nonsense."""


class FetchError(AgentError):
    """A blob cannot be fetched now; another try later may succeed.

    Attributes:
        cause: the kind of failure, one word for programs.
        progressed: some of it came before the end, and is kept.
        retry_after_s: how long the server asked not to be asked again, or None.
    """

    cause = "unavailable"
    progressed = False
    retry_after_s: float | None = None


class OfflineError(FetchError):
    """There is no way to any source now; to wait for one is no failure."""

    cause = "offline"


class NotOfferedError(FetchError):
    """Every way to the blob says that it is not there, or not for this device."""

    cause = "not_offered"


class CorruptBlobError(FetchError):
    """What came is, again and again, not what was asked for."""

    cause = "corrupt"


class InterruptedWorkError(AgentError):
    """Something more urgent came; what was done so far is kept."""
