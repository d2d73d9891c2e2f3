"""Names of model lines."""

import re


def model_name(name: str | None, stem: str) -> str:
    """Return the model line's name: what was asked for, or made from the file's name."""
    if name is not None:
        return name
    slug = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:63]
    return slug or "model"
