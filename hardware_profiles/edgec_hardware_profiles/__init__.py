"""Hardware targets: one TOML file each, with the source of every figure."""

from edgec_hardware_profiles.catalog import load, matching, names
from edgec_hardware_profiles.errors import (
    MalformedProfileError,
    ProfileError,
    UnknownProfileError,
)
from edgec_hardware_profiles.host import Host, HostRule, this_host
from edgec_hardware_profiles.profile import Profile, ProfileRuntime, Quantization
from edgec_hardware_profiles.support import Condition, OperatorSupport, Support
from edgec_hardware_profiles.tools import Tool

__all__ = [
    "Condition",
    "Host",
    "HostRule",
    "MalformedProfileError",
    "OperatorSupport",
    "Profile",
    "ProfileError",
    "ProfileRuntime",
    "Quantization",
    "Support",
    "Tool",
    "UnknownProfileError",
    "load",
    "matching",
    "names",
    "this_host",
]
