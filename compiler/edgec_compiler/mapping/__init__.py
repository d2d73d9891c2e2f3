"""Where a target runs each operator of a model, why, and what would help."""

from edgec_compiler.mapping.checking import Mapping, OperatorVerdict, check
from edgec_compiler.mapping.graph import ModelGraph
from edgec_compiler.mapping.opening import read_graph

__all__ = ["Mapping", "ModelGraph", "OperatorVerdict", "check", "read_graph"]
