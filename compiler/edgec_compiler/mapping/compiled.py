"""Reads from a vendor compiler's output what it mapped: the source's operators that are gone.

Operators are counted as the source's own. A vendor's compiler replaces those that it maps by one
custom operator and leaves the others; what is left is found by the names of the tensors made.
"""

from collections.abc import Collection, Mapping

from edgec_compiler import tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.mapping.checking import Mapping as OperatorMapping
from edgec_compiler.mapping.checking import OperatorVerdict
from edgec_compiler.mapping.graph import ModelGraph
from edgec_compiler.mapping.rules import judge
from edgec_hardware_profiles import Profile

UNTOLD = "the vendor's compiler left it to the CPU and did not say why"


def with_distinct_names(payload: bytes, graph: ModelGraph) -> tuple[bytes, dict[str, int]]:
    """Return the model with distinct names of tensors, and the operator that makes each.

    A file whose operators already make distinctly named tensors is returned as it is.
    """
    names = [graph.tensors[i].name for operator in graph.operators for i in operator.outputs]
    distinct = [tensor.name for tensor in graph.tensors]
    if not all(names) or len(set(distinct)) != len(distinct):
        model = tflite.parse(payload, "the model")
        for index, tensor in enumerate(model.subgraphs[0].tensors):
            tensor.name = f"t{index}".encode()
        payload = tflite.serialise(model)
        distinct = [f"t{index}" for index in range(len(graph.tensors))]
    makers = {distinct[i]: o.index for o in graph.operators for i in o.outputs}
    return payload, makers


def left_on_cpu(
    compiled: ModelGraph, makers: Mapping[str, int], own: Collection[str]
) -> frozenset[int]:
    """Return the source's operators that the compiled model still has.

    Args:
        compiled: the vendor's output.
        makers: tensor name -> source operator, from `with_distinct_names`.
        own: the vendor's custom operators.

    Raises:
        ConversionError: the output is another model's: none of its tensors are the source's.
    """
    made = {
        compiled.tensors[tensor].name: operator.op
        for operator in compiled.operators
        for tensor in operator.outputs
    }
    if not set(made) & set(makers):
        raise ConversionError("the vendor's compiler returned a model with other tensors")
    return frozenset(makers[name] for name, op in made.items() if name in makers and op not in own)


def mapping_of(
    graph: ModelGraph, profile: Profile, on_cpu: Collection[int], reasons: Mapping[int, str]
) -> OperatorMapping:
    """Return where every operator runs, with the compiler's own reasons where it gave any."""
    support = profile.support
    verdicts = []
    for operator in graph.operators:
        reason = fix = None
        if operator.index in on_cpu:
            refusal = None if support is None else judge(graph, operator, support)
            predicted = UNTOLD if refusal is None else refusal.reason
            reason = reasons.get(operator.index, predicted)
            fix = None if refusal is None else refusal.fix
        place = "cpu" if operator.index in on_cpu else (support.on if support else "npu")
        output = graph.output_name(operator)
        verdicts.append(OperatorVerdict(operator.index, operator.op, output, place, reason, fix))
    return OperatorMapping(profile.name, tuple(verdicts), "compiled")
