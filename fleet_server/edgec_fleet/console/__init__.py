"""The web console: what an operator sees and steers. Jinja, htmx and inline SVG; no build step."""

from edgec_fleet.console import pages, steering  # noqa: F401 (they add their routes)
from edgec_fleet.console.frame import console

__all__ = ["console"]
