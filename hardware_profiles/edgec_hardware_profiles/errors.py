"""What can be wrong with a profile.

ProfileError
├── UnknownProfileError    no profile has that name
└── MalformedProfileError  the file is not a profile
"""


class ProfileError(Exception):
    """A hardware profile cannot be used."""


class UnknownProfileError(ProfileError):
    """No built-in profile has this name and no file lies at this path."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        if name.endswith(".toml"):
            problem = f"{name}: no such file"
        else:
            problem = (
                f"unknown target '{name}': expected the path of a .toml file or one of"
                f" {', '.join(known)}"
            )
        super().__init__(problem)
        self.name = name
        self.known = known


class MalformedProfileError(ProfileError):
    """A profile file does not say what a profile must say."""

    def __init__(self, origin: str, problem: str) -> None:
        super().__init__(f"{origin}: {problem}")
        self.origin = origin
        self.problem = problem
