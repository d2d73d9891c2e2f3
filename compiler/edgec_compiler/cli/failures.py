"""The exit code of every error that a command may end with.

Exit codes: 1 not achievable, 2 wrong usage or unreadable input, 3 a missing extra or tool, 4 server
or network.
"""

from edgec_bundle.errors import (
    ArchiveError,
    BundleError,
    ManifestError,
    PatchFormatError,
    PatchPathError,
)
from edgec_compiler.errors import CompilerError
from edgec_hardware_profiles import ProfileError
from edgec_runtime.errors import (
    DataError,
    InputError,
    ModelError,
    RunError,
    RuntimeMissingError,
    SpecError,
)

_UNREADABLE = (
    ArchiveError,
    DataError,
    InputError,
    ManifestError,
    ModelError,
    PatchFormatError,
    PatchPathError,
    ProfileError,
    SpecError,
)


def exit_code_of(error: Exception) -> int | None:
    """Return the exit code for `error`; None if no command should have met it."""
    match error:
        case CompilerError():
            return error.exit_code
        case RuntimeMissingError():
            return 3
        case BundleError() | RunError() | ProfileError():
            return 2 if isinstance(error, _UNREADABLE) else 1
    return None
