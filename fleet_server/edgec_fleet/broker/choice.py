"""Which broker runs: Mosquitto as a child when it is installed, amqtt otherwise, or one's own.

The setting `broker` is empty (choose), "mosquitto" or "amqtt" (that one as a child), or the URL
of a broker that somebody else runs.
"""

import os
import shutil

from edgec_fleet.errors import SettingsError
from edgec_fleet.settings import Settings

MOSQUITTO, AMQTT = "mosquitto", "amqtt"
_SYSTEM = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


def is_child(settings: Settings) -> bool:
    """Return whether the server runs the broker itself."""
    return settings.broker in (None, MOSQUITTO, AMQTT)


def find_mosquitto() -> str | None:
    """Return the path of Mosquitto, or None. Debian keeps it where users' PATH has no look."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_SYSTEM])
    return shutil.which(MOSQUITTO, path=path)


def choose(settings: Settings) -> tuple[str, str | None]:
    """Return (MOSQUITTO, its path) or (AMQTT, None). Raises SettingsError: not installed."""
    if settings.broker == AMQTT:
        return AMQTT, None
    path = find_mosquitto()
    if path is not None:
        return MOSQUITTO, path
    if settings.broker == MOSQUITTO:
        raise SettingsError("mosquitto is not installed; install it, or leave the broker to us")
    return AMQTT, None
