"""What a report says first: whether the model is good enough, and what it cost."""

from collections.abc import Mapping
from typing import Any

from edgec_compiler.report.charts import Bar, bars
from edgec_compiler.report.html import milliseconds, section, text, tiles
from edgec_compiler.sizes import human_bytes

Facts = Mapping[str, Any]
LOW_SAMPLES = 100  # fewer tell accuracy only roughly


def verdict(metrics: Facts, budget: Facts | None) -> str:
    """Return the sentence that the page is for, and what it rests on."""
    kind, words = judged(metrics, budget)
    return text(words, f"'verdict {kind}'") + text(_rests_on(metrics), "soft")


def judged(metrics: Facts, budget: Facts | None) -> tuple[str, str]:
    """Return "good", "warn" or "", and whether the model is good enough, in words."""
    accuracy, agreement = metrics["accuracy"], metrics["agreement"]
    if metrics["data"] == "noise":
        return "warn", "Not judged on real data: only noise was compared"
    if accuracy is not None:
        lost = accuracy["source"] - accuracy["compiled"]
        change = points(-lost)
        limit = "" if budget is None else f", allowed are {points(-budget['limit'])}"
        return "good", f"Accuracy {accuracy['compiled']:.2%}: {change} against the source{limit}"
    if budget is not None:
        allowed = f"allowed is a difference of {budget['limit']:.2%}"
        return "good", f"Agrees with the source on {agreement:.2%} of samples, {allowed}"
    return "warn", f"Agrees with the source on {agreement:.2%} of samples; no budget was given"


def points(change: float) -> str:
    """Return a change of a fraction in percentage points: "+0.22 points", "0.00 points"."""
    rounded = round(100 * change, 2)
    return "0.00 points" if rounded == 0 else f"{rounded:+.2f} points"


def _rests_on(metrics: Facts) -> str:
    count, data = metrics["samples"], metrics["data"]
    if data == "noise":
        return (
            f"{count} noise inputs: source and compiled model agree on {metrics['agreement']:.2%} "
            "of them. Give --evaluation DATA with labels to learn its accuracy."
        )
    told = f"Judged on {count} {data} samples"
    if metrics["accuracy"] is not None:
        told += f"; both give the same answer on {metrics['agreement']:.2%} of them"
    if metrics["accuracy"] is None:
        told += ", which have no labels, so there is no accuracy"
    few = "; so few samples tell it only roughly" if count < LOW_SAMPLES else ""
    return f"{told}{few}."


def cost_tiles(report: Facts, measured: Facts) -> str:
    """Return size, latency, memory and mapping at a glance."""
    before, after = (report["metrics"]["bytes"][k] for k in ("source", "model"))
    rows = [
        ("Model", human_bytes(after), f"{_factor(before, after)}, {report['precision']}"),
        latency_tile(report, measured),
        memory_tile(report, measured),
    ]
    mapping = report["mapping"]
    if mapping["accelerated"]:
        how = "as compiled" if mapping["basis"] == "compiled" else "predicted"
        share = f"{mapping['accelerated']} of {mapping['total']}"
        rows.append(("On the accelerator", share, f"operators, {how}"))
    delta = report["lineage"].get("delta")
    if delta is not None:
        patch = delta["patch"]["model"]["bytes"]
        rows.append(("Update", human_bytes(patch), "patch from the deployed model"))
    return tiles(rows)


def _factor(before: int, after: int) -> str:
    if not before:
        return "the source has no weights"  # a module of its own code alone
    if after < before:
        return f"{before / after:.1f}x smaller than the source"
    return f"{after / before:.1f}x larger than the source"


def latency_tile(report: Facts, measured: Facts) -> tuple[str, str, str]:
    """Return the card of the latency: measured here, or an estimate and whose."""
    latency, estimate = measured["latency_ms"], report.get("latency_estimate")
    if latency is not None:
        return "Latency, p50", milliseconds(latency["p50"]), "measured on this machine"
    if estimate is None:
        return "Latency", "unknown", "not measured, and the profile has no rates"
    return "Latency, estimated", milliseconds(estimate["ms"]), f"by the {estimate['by']}"


def memory_tile(report: Facts, measured: Facts) -> tuple[str, str, str]:
    """Return the card of the memory: measured, planned by a tool, or estimated."""
    tool, estimate = report["estimates"], report.get("latency_estimate") or {}
    if measured["memory_bytes"] is not None:
        return "Memory", human_bytes(measured["memory_bytes"]), "added at its peak, measured"
    for name, what in (("arena_bytes", "tensor arena"), ("sram_bytes", "SRAM")):
        if name in tool:
            return "Memory", human_bytes(tool[name]), f"{what}, an estimate"
    if "activation_bytes" in estimate:
        return (
            "Memory",
            human_bytes(estimate["activation_bytes"]),
            "activations at least, an estimate",
        )
    return "Memory", "unknown", "not measured"


def quality(metrics: Facts) -> str:
    """Return accuracy and agreement as bars."""
    rows = []
    if metrics["accuracy"] is not None:
        for name, colour in (("source", "var(--old)"), ("compiled", "var(--bar)")):
            value = metrics["accuracy"][name]
            rows.append(Bar(f"accuracy, {name}", value, f"{value:.2%}", colour))
    rows.append(Bar("agreement", metrics["agreement"], f"{metrics['agreement']:.2%}"))
    return section("Accuracy", bars(rows, 1.0))


def sizes(metrics: Facts, compression: Facts | None) -> str:
    """Return the sizes of source and model as bars."""
    count = metrics["bytes"]
    rows = [
        Bar("source file", count["source"], human_bytes(count["source"]), "var(--old)"),
        Bar("bundle's model", count["model"], human_bytes(count["model"])),
    ]
    if compression is not None and "file" in compression:
        packed = compression["file"]["zstd_bytes"]
        rows.append(Bar("the same, zstd", packed, human_bytes(packed)))
    return section("Size", bars(rows))


def timing(report: Facts, measured: Facts) -> str:
    """Return latency and loading, measured or estimated, and where the time goes."""
    latency, estimate = measured["latency_ms"], report.get("latency_estimate")
    parts = []
    if latency is not None:
        rows = [Bar(name, latency[name], milliseconds(latency[name])) for name in latency]
        load = [
            Bar(f"{name} load", value, milliseconds(value))
            for name, value in (measured.get("load_ms") or {}).items()
        ]
        told = f"Measured in fresh processes on {measured['host']}."
        parts += [bars(rows), bars(load), text(told, "soft")]
    elif estimate is not None:
        told = (
            f"About {milliseconds(estimate['ms'])}: an estimate by the {estimate['by']}, not a "
            "measurement; this machine is not the target."
        )
        parts.append(text(told))
    if estimate is not None and "by_operator_ms" in estimate:
        parts.append(_by_operator(estimate))
    return section("Latency", *parts) or section("Latency", text("Neither measured nor estimated."))


def _by_operator(estimate: Facts) -> str:
    found = [(op, ms) for op, ms in estimate["by_operator_ms"].items() if ms > 0]
    if estimate["transfer_ms"]:
        found.append(("to the accelerator and back", estimate["transfer_ms"]))
    found.sort(key=lambda one: -one[1])
    least = 0.005 * sum(ms for _, ms in found)
    rows = [Bar(op, ms, milliseconds(ms), "var(--old)") for op, ms in found[:8] if ms >= least]
    return text("Where the time goes, estimated from the profile's rates:", "soft") + bars(rows)
