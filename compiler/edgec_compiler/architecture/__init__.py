"""Searches a recipe's widths and depths for the best net that a target has time and memory for."""

from edgec_compiler.architecture.candidates import Candidate, Limits, Sizes
from edgec_compiler.architecture.searching import Found, SearchOptions, search

__all__ = ["Candidate", "Found", "Limits", "SearchOptions", "Sizes", "search"]
