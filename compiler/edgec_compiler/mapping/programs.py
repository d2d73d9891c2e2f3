"""Which vendors' programs a target has, and which of them are here; no model is needed to tell."""

import shutil

from edgec_hardware_profiles import Profile, Tool


def is_installed(tool: Tool) -> bool:
    """Return whether the program is on PATH."""
    return tool.program is not None and shutil.which(tool.program) is not None


def makes_own_binary(profile: Profile, fmt: str) -> bool:
    """Return whether models are handed to a vendor's compiler, which packs the weights."""
    tools = {tool.kind: tool for tool in reversed(profile.tools)}
    if "vela" in tools and fmt == "tflite":
        return True
    return "command" in tools and is_installed(tools["command"])
