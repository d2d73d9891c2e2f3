"""The parts of a report that explain: layers, memory, mapping, candidates, updates, origins."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgec_compiler.recipe import Recipe
from edgec_compiler.report.charts import (
    Bar,
    Point,
    area,
    bars,
    columns,
    key,
    plot,
    scatter,
    strip,
)
from edgec_compiler.report.html import facts, folded, milliseconds, section, table, text
from edgec_compiler.sizes import human_bytes

Facts = Mapping[str, Any]
_FULL_DB = 60.0  # the height of the picture: a thousandth of the signal
_BAD_DB, _FAIR_DB = 10.0, 20.0
_PLACES = {"npu": "var(--bar)", "gpu": "var(--bar)", "cpu": "var(--old)"}
_SHOWN = 8


def layers(errors: Facts) -> str:
    """Return how far each layer is from its float form."""
    rows: Sequence[Facts] = errors["layers"]
    told = [row for row in rows if row["sqnr_db"] is not None]
    if not told:
        return ""
    worst = sorted(told, key=lambda row: row["sqnr_db"])[:5]
    values = [_FULL_DB if row["sqnr_db"] is None else row["sqnr_db"] for row in rows]
    says = (
        f"signal over error of {len(rows)} layers in execution order, in decibels: least "
        f"{worst[0]['sqnr_db']:.1f} at {worst[0]['layer']}, last {values[-1]:.1f}"
    )
    caption = (
        f"Signal over error of each layer's output in dB, in execution order, against the float "
        f"form, on {errors['samples']} {errors['data']} samples. Higher is better: 20 dB is an "
        "error of a tenth, 40 dB of a hundredth. Errors of earlier layers are part of it."
    )
    picture = columns(values, [_colour(value) for value in values], _FULL_DB, says)
    ends = (rows[0]["layer"], rows[-1]["layer"])
    return section(
        "Error by layer",
        plot(picture, ("60 dB", "30", "0"), ends, caption),
        text("The worst:", "soft"),
        _layer_table(worst),
        folded(f"All {len(rows)} layers", _layer_table(rows)),
    )


def _layer_table(rows: Sequence[Facts]) -> str:
    cells = [
        (
            row["layer"],
            row["op"],
            "exact" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
            f"{row['max_error']:.4g}",
        )
        for row in rows
    ]
    return table(("layer", "operator", "dB", "greatest error"), cells, (2, 3))


def _colour(decibels: float) -> str:
    if decibels < _BAD_DB:
        return "var(--bad)"
    return "var(--warn)" if decibels < _FAIR_DB else "var(--bar)"


def memory(report: Facts) -> str:
    """Return how many bytes of activations live while each operator runs."""
    estimate = report.get("latency_estimate") or {}
    live = estimate.get("live_bytes") or []
    parts = []
    if live and max(live):
        peak = max(live)
        most = human_bytes(peak)
        at = live.index(peak) + 1
        says = f"activations alive at each of {len(live)} operators, most {most} at {at}"
        caption = (
            f"Activations that live at once, operator by operator: {most} at operator {at} "
            f"of {len(live)}; the weights take {human_bytes(estimate['weight_bytes'])} besides. "
            "Planned from lifetimes, nothing in place; a runtime needs somewhat more."
        )
        picture = area(live, says)
        parts.append(plot(picture, (most, "0"), ("first operator", "last"), caption))
    planned = {
        name.removesuffix("_bytes").replace("_", " "): human_bytes(value)
        for name, value in report["estimates"].items()
        if name.endswith("_bytes")
    }
    parts.append(facts(("by the target's tool", "size"), planned) if planned else "")
    return section("Memory", *parts)


def mapping(mapped: Facts) -> str:
    """Return which operators run where, and for those left on the CPU why and what to try."""
    ops: Sequence[Facts] = mapped["ops"]
    refused = [op for op in ops if op["reason"] is not None]
    if not mapped["accelerated"] and not refused:
        return ""
    how = "as its compiler made it" if mapped["basis"] == "compiled" else "as its table predicts"
    told = f"{mapped['accelerated']} of {mapped['total']} operators run on the accelerator, {how}."
    colours = [_PLACES.get(op["on"], "var(--old)") for op in ops]
    says = f"operators in file order: {mapped['accelerated']} accelerated of {mapped['total']}"
    counts = Counter((op["op"], op["on"]) for op in ops)
    rows = [(str(op["index"]), op["op"], op["reason"], op["fix"] or "") for op in refused]
    head = ("#", "operator", "why it stays on the CPU", "what to try")
    most = table(head, rows[:_SHOWN], (0,))
    rest = table(head, rows[_SHOWN:], (0,))
    by_type = [(op, on, str(count)) for (op, on), count in counts.items()]
    return section(
        "Mapping",
        text(told),
        strip(colours, says),
        key((("accelerator", "var(--bar)"), ("CPU", "var(--old)"))),
        most,
        folded(f"{len(rows) - _SHOWN} more that stay on the CPU", rest),
        folded("Operators by type", table(("operator", "runs on", "count"), by_type, (2,))),
    )


def candidates(search: Facts | None) -> str:
    """Return what a search tried: size against loss, and the table, the chosen one set off."""
    rows: Sequence[Facts] = search["candidates"] if search else ()
    if search is None or len(rows) < 2:
        return ""
    made = [row for row in rows if row["refused"] is None]
    points = [
        Point(row["bytes"], -row["drop"], _candidate_colour(row), bool(row["chosen"]))
        for row in made
    ]
    drawn = ""
    if points:
        low, high = (extreme(row["bytes"] for row in made) for extreme in (min, max))
        best, worst = (extreme(row["drop"] for row in made) for extreme in (min, max))
        caption = (
            "Each candidate by size (left is smaller) and loss (up is better); the budget allows "
            f"a loss of {search['max_accuracy_drop']:.2%} of {search['judged_by']}."
        )
        says = f"{len(made)} candidates by size and loss of {search['judged_by']}"
        axes = ((f"{best:+.2%}", f"{worst:+.2%}"), (human_bytes(low), human_bytes(high)))
        drawn = plot(scatter(points, says), *axes, caption)
        drawn += key(
            (
                ("chosen", "var(--good)"),
                ("nothing is better in both", "var(--bar)"),
                ("others", "var(--old)"),
            )
        )
    chosen = next((place for place, row in enumerate(rows) if row["chosen"]), -1)
    head = ("candidate", "size", search["judged_by"], "loss", "about", "")
    cells = [_candidate(row, search["judged_by"]) for row in rows]
    return section("Candidates tried", drawn, table(head, cells, (1, 2, 3, 4), chosen))


def _candidate_colour(row: Facts) -> str:
    return "var(--good)" if row["chosen"] else "var(--bar)" if row["front"] else "var(--old)"


def _candidate(row: Facts, judged_by: str) -> tuple[str, ...]:
    name = Recipe.from_dict(row).words()
    if row["refused"] is not None:
        return name, "", "", "", "", str(row["refused"])
    mark = "chosen" if row["chosen"] else "on the front" if row["front"] else ""
    about = row.get("estimate_ms")
    time = "" if about is None else milliseconds(about)
    return (
        name,
        human_bytes(row["bytes"]),
        f"{row[judged_by]:.2%}",
        f"{row['drop']:+.2%}",
        time,
        mark,
    )


def compression(found: Facts | None) -> str:
    """Return what pruning, distilling and clustering took away, and what that cost."""
    if not found:
        return ""
    parts = []
    for name, what in (("params", "parameters"), ("macs", "multiply-accumulates")):
        before, after = found[name]["before"], found[name]["after"]
        parts += [
            Bar(f"{what} before", before, f"{before:,}", "var(--old)"),
            Bar(f"{what} after", after, f"{after:,}"),
        ]
    rows = [
        Bar(f"{measure}, {name}", one[measure], f"{one[measure]:.2%}")
        for name, one in (found.get("quality") or {}).items()
        if one is not None
        and (measure := "agreement" if one.get("accuracy") is None else "accuracy")
    ]
    zeros = found["achieved"]["zeros"]
    told = f"{zeros:.1%} of the remaining weights are zero." if zeros else ""
    return section(
        "Compression",
        bars(parts[:2]),
        bars(parts[2:]),
        bars(rows, 1.0),
        text(f"{told} Compared: {found['compared']}.".strip(), "soft"),
        *(text(f"{line[:1].upper()}{line[1:]}.", "soft") for line in found["kept"]),
    )


def delta(found: Facts | None) -> str:
    """Return what an update near a deployed model costs and saves."""
    if found is None:
        return ""
    patch, error, changed = found["patch"], found["error"], found["changed"]
    told = (
        f"Made near the deployed bundle {found['base'][:16]}: {found['layers']['matched']} of "
        f"{found['layers']['total']} layers have a counterpart; lambda {found['lambda']:.4g}, "
        f"budget {found['budget']:g}. The error is against the float model, on "
        f"{error['samples']} {error['data']} samples, in standard deviations of its output."
    )
    names = (("ordinary", "ordinary int8", "var(--old)"), ("model", "this model", "var(--bar)"))
    patches = [
        Bar(f"patch, {n}", patch[k]["bytes"], human_bytes(patch[k]["bytes"]), c)
        for k, n, c in names
    ]
    errors = [Bar(f"error, {n}", error[k], f"{error[k]:.4f}", c) for k, n, c in names]
    shares = [
        Bar(f"changed, {n}", changed[k], f"{changed[k]:.1%} of weights", c) for k, n, c in names
    ]
    return section("Update", text(told), bars(patches), bars(errors), bars(shares, 1.0))


def origins(report: Facts, components: Sequence[Facts]) -> str:
    """Return how an answer comes about, and what the model was made with and from."""
    steps = [*report["preprocessing"], {"op": "the model"}, *report["postprocessing"]]
    path = {
        f"{number}. {step['op']}": ", ".join(f"{k} {v}" for k, v in step.items() if k != "op")
        for number, step in enumerate(steps, 1)
    }
    rows = [(one["name"], one.get("version", ""), _licences(one)) for one in components]
    lineage = report["lineage"]
    counted = report["operators"]
    return (
        section("From raw input to answer", facts(("step", "how"), path))
        + section(
            "Made from",
            facts(("input", "sha256"), lineage["inputs"]),
            folded(
                f"{counted['total']} operators in the source",
                facts(("operator", "count"), counted["by_type"]),
            ),
            folded("Graph passes", facts(("pass", "changes"), report["passes"])),
            folded("Options", facts(("option", "value"), lineage["options"])),
        )
        + section(
            "Bill of materials",
            text(f"{len(rows)} components (CycloneDX 1.6, in sbom.cdx.json).", "soft"),
            folded("Components and licences", table(("component", "version", "licence"), rows)),
        )
    )


def _licences(component: Facts) -> str:
    found = []
    for one in component.get("licenses", ()):
        licence = one.get("license", {})
        found.append(one.get("expression") or licence.get("id") or licence.get("name") or "")
    return ", ".join(found) or "not stated"
