"""Who gets which bundle, when."""

from importlib.metadata import version

__version__ = version("edgec")
