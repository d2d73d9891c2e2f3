"""Where a target runs each operator of a model, why, and what would help."""

from edgec_compiler.mapping.checking import Mapping, OperatorVerdict, check
from edgec_compiler.mapping.exact import map_model
from edgec_compiler.mapping.graph import ModelGraph
from edgec_compiler.mapping.opening import read_graph
from edgec_compiler.mapping.rewriting import Rewriting, rewrite_model

__all__ = [
    "Mapping",
    "ModelGraph",
    "OperatorVerdict",
    "Rewriting",
    "check",
    "map_model",
    "read_graph",
    "rewrite_model",
]
