"""What a SavedModel's graph holds; what reaches outside of the model is refused or taken out.

A SavedModel is a program: loading one runs functions of it, which can write files, run Python or
open connections. Before TensorFlow loads it, every operator of every function is looked at:

1. those that TensorFlow itself declares to have no state compute, and are let through, but for
   those that read files or run Python all the same (`_READERS`);
2. those with state are let through if they are known to keep it inside of the model (`_INSIDE`);
3. those that save a model's variables, which every SavedModel has, are made to do nothing;
4. all others are refused by name.

The slots of optimizers are dropped: they are of no use here, and cannot be loaded without the class
of the optimizer.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers.saved_model_folder import Proto, nodes_of

_SAVERS = ("SaveV2", "MergeV2Checkpoints")
_READERS = re.compile(
    r"File|Dataset|PyFunc|Debug|Reader|Summary|VocabRemapping|Rpc|Record|Recv|Send|Checkpoint"
)
_INSIDE = re.compile(
    r"""
      (Stateful)?PartitionedCall | (_|Risc)?While | _?If | Case | Assert | CheckNumerics(V2)?
    | VarHandleOp | (Read|Assign|AssignAdd|AssignSub)VariableOp | VarIsInitializedOp | VariableShape
    | Variable(V2)? | DisableCopyOnRead | Resource(Gather|Scatter|Apply|SparseApply|Strided)\w*
    | DestroyResourceOp | RestoreV2 | TensorArray\w* | Stack\w* | Empty | TemporaryVariable
    | (Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)? | InitializeTableV2
    | LookupTable(Find|Insert|Import|Export|Remove|Size)V2 | IteratorGetNext | CudnnRNN\w*
    | Random(StandardNormal|Uniform|UniformInt|Gamma|Poisson|PoissonV2|Shuffle|Crop)
    | (Parameterized)?TruncatedNormal | Multinomial | Stateful(Random|Standard|Truncated|Uniform)\w*
    | (Rng|StatelessRandom)\w* | GuaranteeConst | DeviceIndex | DeepCopy
    | ShardedFilename | _Arg | _Retval
    """,
    re.VERBOSE,
)


def checked(proto: Proto, path: Path) -> Proto:
    """Return `proto` with nothing in it that reaches outside of the model; it is changed.

    Raises:
        ModelFileError: it has such an operator, which is named.
    """
    registry: Any = importlib.import_module("tensorflow.python.framework.op_def_registry")
    for graph in proto.meta_graphs:
        for node in nodes_of(graph):
            if node.op in _SAVERS:
                _silence(node)
            elif _reaches_out(node.op, registry.get(node.op)):
                raise ModelFileError(
                    f"{path}: operator {node.op} ({node.name}) reaches outside of the model, so "
                    "it is never loaded: save the model without it"
                )
        for one in graph.object_graph_def.nodes:
            del one.slot_variables[:]
    return proto


def _reaches_out(op: str, declared: Any) -> bool:
    """Return whether an operator may do more than compute; `declared` is None for a function."""
    if declared is None:
        return False  # TensorFlow runs only what it knows
    if _INSIDE.fullmatch(op):
        return False
    return bool(declared.is_stateful) or _READERS.search(op) is not None


def _silence(node: Proto) -> None:
    """Make a node without outputs do nothing."""
    node.op = "NoOp"
    del node.input[:]
    node.attr.clear()
