"""Everything that the fleet server refuses.

FleetError
├── UnknownError      there is no such thing (or it belongs to another tenant)
├── ConflictError     it exists already, or is not in a state for this
├── RefusedError      the request is well-formed, but breaks a rule
├── ForbiddenError    the caller's role does not allow it
├── UnauthenticatedError  nobody we know is calling
├── TooManyError      too many attempts; try later
├── TooLargeError     more bytes than are taken
├── MissingKeyError   the server does not hold the key that must sign
└── SettingsError     the folder, its config.toml or a file in it is not usable
"""


class FleetError(Exception):
    """The fleet server cannot or will not do what was asked.

    Attributes:
        detail: JSON-able facts for the caller, or None.
    """

    status = 400

    def __init__(self, message: str, *, detail: object = None) -> None:
        super().__init__(message)
        self.detail = detail


class UnknownError(FleetError):
    """There is no such thing within the caller's tenant."""

    status = 404


class ConflictError(FleetError):
    """It exists already, or is in a state that does not allow this."""

    status = 409


class RefusedError(FleetError):
    """What was sent is well-formed, but is not acceptable."""

    status = 422


class ForbiddenError(FleetError):
    """The caller is known, but may not do this."""

    status = 403


class UnauthenticatedError(FleetError):
    """The caller did not prove who it is."""

    status = 401


class TooManyError(FleetError):
    """Too many attempts from this caller.

    Attributes:
        retry_after_s: whole seconds until the next attempt is looked at.
    """

    status = 429

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, detail={"retry_after_s": retry_after_s})
        self.retry_after_s = retry_after_s


class TooLargeError(FleetError):
    """More bytes than the server takes."""

    status = 413


class MissingKeyError(FleetError):
    """The server does not hold the key that must sign this.

    Attributes:
        role: the trust role whose key is elsewhere.
    """

    status = 409

    def __init__(self, message: str, *, role: str, detail: object = None) -> None:
        super().__init__(message, detail=detail)
        self.role = role


class SettingsError(FleetError):
    """The server's folder or its config.toml is not usable."""

    status = 500
