"""Finds profiles: the built-in ones by name, a user's own by path."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

from edgec_hardware_profiles.errors import MalformedProfileError, UnknownProfileError
from edgec_hardware_profiles.host import Host, this_host
from edgec_hardware_profiles.profile import MAX_BYTES, Profile

_FOLDER = resources.files("edgec_hardware_profiles") / "profiles"


def names() -> tuple[str, ...]:
    """Return the names of the built-in profiles, sorted."""
    return tuple(
        sorted(
            file.name.removesuffix(".toml")
            for file in _FOLDER.iterdir()
            if file.name.endswith(".toml")
        )
    )


def load(name_or_path: str | Path) -> Profile:
    """Return the built-in profile of that name, or the one in the TOML file at that path.

    Raises:
        UnknownProfileError: no built-in profile and no file is called so.
        MalformedProfileError: the file is not a profile.
    """
    name = str(name_or_path)
    if name in names():
        profile = Profile.from_toml((_FOLDER / f"{name}.toml").read_text("utf-8"), f"{name}.toml")
        if profile.name != name:
            raise MalformedProfileError(f"{name}.toml", f"is named '{profile.name}' inside")
        return _complete(profile, f"{name}.toml")
    if not name.endswith(".toml"):
        raise UnknownProfileError(name, names())
    return _complete(Profile.from_toml(_read(Path(name)), name), name)


def _complete(profile: Profile, origin: str) -> Profile:
    """Return `profile` with the operators of the built-in profile that it refers to."""
    support = profile.support
    if support is None or support.ops_of is None:
        return profile
    if support.ops_of not in names() or support.ops_of == profile.name:
        raise MalformedProfileError(
            origin, f"mapping.ops_of: expected another built-in profile, got '{support.ops_of}'"
        )
    text = (_FOLDER / f"{support.ops_of}.toml").read_text("utf-8")
    other = Profile.from_toml(text, f"{support.ops_of}.toml").support
    if other is None or other.ops_of is not None:
        raise MalformedProfileError(
            origin, f"mapping.ops_of: '{support.ops_of}' has no operators of its own"
        )
    return replace(profile, support=support.with_operators_of(other))


def matching(host: Host | None = None) -> tuple[str, ...]:
    """Return the names of the built-in profiles that `host` (default: this machine) satisfies.

    The more a rule demands, the earlier: a board or a device goes before a mere architecture.
    """
    host = host or this_host()
    found = [profile for profile in map(load, names()) if profile.host.matches(host)]
    found.sort(key=lambda p: (not (p.host.usb or p.host.pci), p.host.board is None, p.name))
    return tuple(profile.name for profile in found)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            payload = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnknownProfileError(str(path), names()) from error
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedProfileError(str(path), "not UTF-8 text") from error
