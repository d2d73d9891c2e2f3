"""How the console says things: states, sizes, times. Pure functions, used as template filters."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

NOTHING = "\N{EN DASH}"  # where there is no value
SILENT_AFTER = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Badge:
    """A state as the page shows it: never colour alone."""

    kind: str  # "good", "busy", "wait", "bad", "off": the CSS class and the icon
    text: str


_BADGES = {
    # rollouts and groups
    "running": ("busy", "running"),
    "paused": ("wait", "paused"),
    "completed": ("good", "completed"),
    "succeeded": ("good", "succeeded"),
    "aborted": ("off", "aborted"),
    "waiting": ("off", "waiting"),
    # devices in a rollout
    "queued": ("off", "queued"),
    "assigned": ("wait", "told, no answer yet"),
    "in_progress": ("busy", "in progress"),
    "committed": ("good", "committed"),
    "failed": ("bad", "failed"),
    "rejected": ("bad", "rejected"),
    "rolled_back": ("bad", "rolled back"),
    "timed_out": ("off", "timed out"),
    "cancelled": ("off", "cancelled"),
    # releases
    "published": ("good", "published"),
    "unsigned": ("wait", "waits for a signature"),
    "withdrawn": ("bad", "withdrawn"),
    # devices
    "online": ("good", "online"),
    "offline": ("off", "offline"),
    "silent": ("wait", "silent"),
    "revoked": ("bad", "revoked"),
    # alerts
    "info": ("busy", "info"),
    "warning": ("wait", "warning"),
    "critical": ("bad", "critical"),
    # a device's own phases
    "idle": ("off", "idle"),
    "offered": ("busy", "offered"),
    "fetching": ("busy", "fetching"),
    "patching": ("busy", "patching"),
    "verifying": ("busy", "verifying"),
    "testing": ("busy", "testing"),
    "staged": ("busy", "staged"),
    "shadow": ("busy", "in shadow"),
    "probation": ("busy", "in probation"),
}


def badge(state: str | None) -> Badge:
    """Return how `state` is shown; an unknown one as itself, in grey."""
    kind, text = _BADGES.get(state or "", ("off", state or "unknown"))
    return Badge(kind, text)


def size(count: float | None) -> str:
    """Return a number of bytes for people, in decimal units: 1234567 -> "1.23 MB"."""
    if count is None:
        return NOTHING
    if count < 1000:
        return f"{count:.0f} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction 0..1 as a percentage."""
    return NOTHING if fraction is None else f"{fraction * 100:.{digits}f} %"


def ago(instant: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago `instant` was, in words ("in 3 d" for what lies ahead)."""
    if instant is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - instant).total_seconds()
    ahead, seconds = seconds < -1, abs(seconds)
    for limit, step, unit in (
        (60, 1, "s"),
        (3600, 60, "min"),
        (86400, 3600, "h"),
        (float("inf"), 86400, "d"),
    ):
        if seconds < limit:
            amount = f"{int(seconds // step)} {unit}"
            return f"in {amount}" if ahead else f"{amount} ago"
    raise AssertionError("the last limit is infinite")


def instant(moment: datetime | None) -> Markup:
    """Return a <time> element: relative words, the exact UTC instant on hover."""
    if moment is None:
        return Markup('<span class="dim">never</span>')
    exact = moment.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        exact.isoformat(), exact.strftime("%Y-%m-%d %H:%M:%S UTC"), ago(exact)
    )


def digest(sha256: str | None) -> Markup:
    """Return a digest as 8 characters that carry all 64; a click copies them."""
    if not sha256:
        return Markup('<span class="dim">{}</span>').format(NOTHING)
    return Markup(
        '<button type="button" class="digest" data-copy="{0}" title="{0} (click to copy)">'
        "{1}</button>"
    ).format(sha256, sha256[:8])


def fact(value: object) -> str:
    """Return a measured value as a person reads it: numbers to four digits, yes and no."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case dict():
            return " ".join(f"{name} {fact(item)}" for name, item in value.items())
        case list():
            return ", ".join(map(fact, value)) or NOTHING
    return str(value)


def sentence(text: str | None) -> str:
    """Return `text` with a capital first letter, for prose that the engine wrote."""
    return "" if not text else text[0].upper() + text[1:]


def link(text: str, url: str) -> Markup:
    """Return an <a> element with both parts escaped."""
    return Markup('<a href="{}">{}</a>').format(escape(url), escape(text))
