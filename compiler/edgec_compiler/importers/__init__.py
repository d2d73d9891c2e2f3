"""Brings a model file of any kind that is taken into one form: `source.SourceModel`."""

from edgec_compiler.importers.importing import import_model

__all__ = ["import_model"]
