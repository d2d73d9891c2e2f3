"""How long a model will roughly take on a target that is not here: a roofline per operator.

An operator takes the longer of its arithmetic at the target's peak rate and its traffic at the
target's bandwidth, and a fixed cost on top (Williams, Waterman, Patterson 2009, "Roofline", with a
share of the peak that each kind of operator reaches in practice). The rates stand in the profile,
each with its source. It is deterministic, and it is rough: docs/compiler.md says how far it was off
where it could be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edgec_compiler.mapping.checking import Mapping as OperatorMapping
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.costs import Cost, costs_of, live_bytes, tensor_bytes
from edgec_compiler.mapping.fitting import graph_of
from edgec_compiler.mapping.graph import ModelGraph
from edgec_hardware_profiles import Profile

# Shares of the peak where a profile gives none, as found with XNNPACK and ONNX Runtime on x86.
_SHARES = {"dense": 0.5, "depthwise": 0.15, "element": 0.15}


@dataclass(frozen=True, slots=True)
class OpEstimate:
    """One operator's share of the estimate."""

    index: int
    op: str
    output: str
    on: str  # "npu" | "gpu" | "cpu"
    ms: float
    bound: str  # "compute" | "memory" | "overhead": what most of the time is
    macs: int
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rough latency of one inference of one row, and what it is made of."""

    ms: float
    ops: tuple[OpEstimate, ...]
    transfer_ms: (
        float  # part of `ms`: to the accelerator and back, weights that do not fit included
    )
    macs: int
    weight_bytes: int
    live_bytes: tuple[int, ...]  # of activations, while each operator runs; see `costs.live_bytes`

    @property
    def activation_bytes(self) -> int:
        """Least memory for all activations that live at once."""
        return max(self.live_bytes, default=0)

    @property
    def memory_bytes(self) -> int:
        """Weights and activations together."""
        return self.weight_bytes + self.activation_bytes

    def by_type(self) -> dict[str, float]:
        """Return {operator: milliseconds}, most first."""
        found: dict[str, float] = {}
        for one in self.ops:
            found[one.op] = found.get(one.op, 0.0) + one.ms
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True, slots=True)
class _Machine:
    """What executes operators: peak rates by dtype, bandwidth, fixed cost."""

    macs_per_s: Mapping[str, float]
    bytes_per_s: float | None
    op_s: float
    shares: Mapping[str, float]

    def time_of(self, cost: Cost) -> tuple[float, str] | None:
        """Return seconds and what bounds them; None if this dtype has no rate here."""
        if cost.kind == "free":
            return 0.0, "overhead"
        rate = self.macs_per_s.get(cost.dtype)
        if rate is None:
            return None
        compute = cost.macs / (rate * self.shares[cost.kind])
        memory = 0.0 if self.bytes_per_s is None else cost.moved_bytes / self.bytes_per_s
        times = {"compute": compute, "memory": memory, "overhead": self.op_s}
        return max(compute, memory) + self.op_s, max(times, key=lambda name: times[name])


def estimate_payload(
    payload: bytes, fmt: str, profile: Profile, *, threads: int = 1
) -> Estimate | None:
    """Return the estimate for the bytes of a portable model; see `estimate_latency`."""
    graph = graph_of(payload, fmt)
    return estimate_latency(graph, profile, check(graph, profile), threads=threads)


def estimate_latency(
    graph: ModelGraph, profile: Profile, mapping: OperatorMapping, *, threads: int = 1
) -> Estimate | None:
    """Return how long one inference of `graph` takes on `profile`, roughly.

    Args:
        graph: with fixed shapes, batch 1 or whatever the file has.
        profile: its `rates` are used; a CPU's are those of one core.
        mapping: where each operator runs.
        threads: that the CPU may use, at most `rates.cores`.

    Returns:
        None if the profile lacks a rate that is needed.
    """
    machines = {"cpu": _cpu(profile, threads)}
    machines["npu"] = machines["gpu"] = _accelerator(profile)
    costs = costs_of(graph)
    ops = []
    for operator, cost, verdict in zip(graph.operators, costs, mapping.ops, strict=True):
        timed = machines[verdict.on].time_of(cost)
        if timed is None:
            return None
        seconds, bound = timed
        name = graph.output_name(operator)
        ops.append(
            OpEstimate(
                operator.index,
                operator.op,
                name,
                verdict.on,
                seconds * 1e3,
                bound,
                cost.macs,
                cost.moved_bytes,
            )
        )
    transfer = _transfer(graph, profile, mapping, costs) * 1e3
    return Estimate(
        ms=sum(one.ms for one in ops) + transfer,
        ops=tuple(ops),
        transfer_ms=transfer,
        macs=sum(cost.macs for cost in costs if cost.kind in ("dense", "depthwise")),
        weight_bytes=sum(cost.weight_bytes for cost in costs),
        live_bytes=live_bytes(graph),
    )


def _cpu(profile: Profile, threads: int) -> _Machine:
    """Return the CPU: the profile's own rates, or those of the host beside its accelerator."""
    prefix = "cpu_" if profile.support is not None and profile.support.on != "cpu" else ""
    rates = profile.rates
    cores = max(1, min(threads, int(rates.get("cores", 1))))
    by_dtype = {
        dtype: rates[f"{prefix}{dtype}_macs_per_s"] * cores
        for dtype in ("fp32", "fp16", "int8", "int16")
        if f"{prefix}{dtype}_macs_per_s" in rates
    }
    if "fp32" in by_dtype:
        by_dtype.setdefault("fp16", by_dtype["fp32"])  # half weights are widened at load
    if "int8" in by_dtype:
        by_dtype.setdefault("int16", by_dtype["int8"] / 2)
    bandwidth = rates.get(f"{prefix}bytes_per_s")
    return _Machine(by_dtype, bandwidth, rates.get(f"{prefix}op_s", 0.0), _shares(rates, prefix))


def _accelerator(profile: Profile) -> _Machine:
    rates = profile.rates
    int8 = rates.get("int8_macs_per_s", rates.get("macs_per_s"))
    half = rates.get("flops_per_s")
    found = {
        "int8": int8,
        "int16": rates.get("int16_macs_per_s", None if int8 is None else int8 / 2),
        "fp16": rates.get("fp16_macs_per_s", None if half is None else half / 2),
        "fp32": rates.get("fp32_macs_per_s", None if half is None else half / 4),
    }
    by_dtype = {dtype: rate for dtype, rate in found.items() if rate is not None}
    bandwidth = rates.get("bytes_per_s")
    return _Machine(by_dtype, bandwidth, rates.get("op_s", 0.0), _shares(rates, ""))


def _shares(rates: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {
        kind: _SHARES[kind] if prefix else rates.get(f"{kind}_share", _SHARES[kind])
        for kind in _SHARES
    }


def _transfer(
    graph: ModelGraph, profile: Profile, mapping: OperatorMapping, costs: tuple[Cost, ...]
) -> float:
    """Return seconds for what crosses between host and accelerator, and for starting it."""
    placed = {
        op.index: verdict.on for op, verdict in zip(graph.operators, mapping.ops, strict=True)
    }
    if all(on == "cpu" for on in placed.values()):
        return 0.0
    makers = {tensor: op.index for op in graph.operators for tensor in op.outputs}
    crossing = set[int]()
    for operator in graph.operators:
        for tensor in operator.inputs:
            made_on = placed[makers[tensor]] if tensor in makers else "cpu"
            constant = graph.tensors[tensor].constant
            if not constant and (made_on == "cpu") != (placed[operator.index] == "cpu"):
                crossing.add(tensor)
    crossing |= {t for t in graph.outputs if t in makers and placed[makers[t]] != "cpu"}
    moved = sum(tensor_bytes(graph.tensors[tensor]) for tensor in crossing)
    weights = sum(
        cost.weight_bytes
        for operator, cost in zip(graph.operators, costs, strict=True)
        if placed[operator.index] != "cpu"
    )
    moved += max(0, weights - (profile.accelerator_memory_bytes or weights))
    link = profile.rates.get("link_bytes_per_s")
    return profile.rates.get("run_s", 0.0) + (0.0 if link is None else moved / link)
