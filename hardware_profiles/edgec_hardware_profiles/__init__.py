"""Hardware targets: one TOML file each, with the source of every figure."""

from edgec_hardware_profiles.catalog import load, matching, names
from edgec_hardware_profiles.errors import (
    MalformedProfileError,
    ProfileError,
    UnknownProfileError,
)
from edgec_hardware_profiles.host import Host, HostRule, this_host
from edgec_hardware_profiles.profile import Profile, ProfileRuntime, Quantization

__all__ = [
    "Host",
    "HostRule",
    "MalformedProfileError",
    "Profile",
    "ProfileError",
    "ProfileRuntime",
    "Quantization",
    "UnknownProfileError",
    "load",
    "matching",
    "names",
    "this_host",
]
