"""report.html: one self-contained page of what was compiled, for people."""

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6673; --line: #d9dee5; --bar: #2f6fde;
  --old: #a9b4c2; --back: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #9aa6b4; --line: #303945;
  --bar: #6ea0f5; --old: #566374; --back: #14181d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p, td.soft, text.soft { color: var(--soft); fill: var(--soft); }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } text { fill: var(--ink); font: 14px system-ui, sans-serif; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""
_BAR_WIDTH, _ROW = 420, 34


def page(report: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """Return the page for one bundle's report.json and measurements.json."""
    target, metrics = report["target"], report["metrics"]
    source = report["lineage"]["source"]
    title = f"{source['name']} for {target['name']}"
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(target['title'])}</p>",
        _quality(metrics),
        "<h2>Size</h2>",
        _bars(
            [
                ("source", metrics["bytes"]["source"], _bytes(metrics["bytes"]["source"])),
                ("bundle's model", metrics["bytes"]["model"], _bytes(metrics["bytes"]["model"])),
            ]
        ),
        _delta(report["lineage"].get("delta")),
        _timing(measured),
        _operators(report["operators"]),
        _mapping(report["mapping"]),
        _table("Estimates of the target's compiler", report["estimates"]),
        _table("Steps from raw input to answer", _steps(report)),
        _table("Made with", report["lineage"]["tools"]),
        _table("Made from (sha256)", report["lineage"]["inputs"]),
        _notes(report["notes"]),
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _quality(metrics: Mapping[str, Any]) -> str:
    told = (
        f"{metrics['precision']}; agrees with the source model on "
        f"{metrics['agreement']:.2%} of {metrics['samples']} samples ({metrics['data']} data)."
    )
    heading = f"<h2>Quality</h2><p>{escape(told)}</p>"
    accuracy = metrics["accuracy"]
    if accuracy is None:
        return heading
    rows = [(name, accuracy[name], f"{accuracy[name]:.2%}") for name in ("source", "compiled")]
    return heading + _bars([(f"accuracy, {n}", value, text) for n, value, text in rows], limit=1.0)


def _bars(rows: list[tuple[str, float, str]], limit: float | None = None) -> str:
    longest = limit or max((value for _, value, _ in rows), default=1) or 1
    drawn = []
    for index, (name, value, text) in enumerate(rows):
        y, width = index * _ROW, max(1.0, _BAR_WIDTH * value / longest)
        colour = "var(--bar)" if index == len(rows) - 1 else "var(--old)"
        drawn.append(
            f"<text class=soft x=0 y={y + 19}>{escape(name)}</text>"
            f"<rect x=170 y={y + 4} width={width:.1f} height=20 rx=3 fill='{colour}'/>"
            f"<text x={180 + width:.1f} y={y + 19}>{escape(text)}</text>"
        )
    return f"<svg viewBox='0 0 680 {len(rows) * _ROW}' role=img>{''.join(drawn)}</svg>"


def _delta(delta: Mapping[str, Any] | None) -> str:
    """Return what an update near a deployed model costs and saves."""
    if delta is None:
        return ""
    patch, error, changed = delta["patch"], delta["error"], delta["changed"]
    told = (
        f"Made near the deployed bundle {delta['base'][:16]}: {delta['layers']['matched']} of "
        f"{delta['layers']['total']} layers have a counterpart; lambda {delta['lambda']:.4g}, "
        f"budget {delta['budget']:g}. The error is against the float model, on "
        f"{error['samples']} {error['data']} samples, in standard deviations of its output."
    )
    names = (("ordinary", "ordinary int8"), ("model", "this model"))
    sizes = [(f"patch, {n}", patch[k]["bytes"], _bytes(patch[k]["bytes"])) for k, n in names]
    errors = [(f"error, {n}", error[k], f"{error[k]:.4f}") for k, n in names]
    shares = [(f"changed, {n}", changed[k], f"{changed[k]:.1%} of weights") for k, n in names]
    return (
        f"<h2>Update</h2><p>{escape(told)}</p>" + _bars(sizes) + _bars(errors) + _bars(shares, 1.0)
    )


def _timing(measured: Mapping[str, Any]) -> str:
    latency = measured["latency_ms"]
    heading = "<h2>Latency</h2>"
    if latency is None:
        return heading + "<p>Not measured: this machine is not the target.</p>"
    rows = [(name, latency[name], f"{latency[name]:.3f} ms") for name in ("p50", "p95", "p99")]
    memory = measured["memory_bytes"]
    more = "" if memory is None else f" Peak memory of the model: {_bytes(memory)}."
    return heading + _bars(rows) + f"<p>Measured here: {escape(measured['host'])}.{more}</p>"


def _operators(operators: Mapping[str, Any]) -> str:
    total = operators["total"]
    return _table(f"{total} operators in the source", operators["by_type"])


def _mapping(mapping: Mapping[str, Any]) -> str:
    """Return where the model's operators run, and why some do not run on an accelerator."""
    if not mapping["accelerated"]:
        return ""
    how = "as its compiler made it" if mapping["basis"] == "compiled" else "predicted"
    share = f"{mapping['accelerated']} of {mapping['total']}"
    told = f"<p>{share} operators of the bundle's model run on the accelerator ({how}).</p>"
    refused = {
        f"{verdict['index']} {verdict['op']}": verdict["reason"]
        for verdict in mapping["ops"]
        if verdict["reason"] is not None
    }
    bar = _bars([("accelerated", mapping["accelerated"], share)], limit=mapping["total"])
    return "<h2>Mapping</h2>" + told + bar + _table("Operators that stay on the CPU", refused)


def _steps(report: Mapping[str, Any]) -> dict[str, str]:
    steps = [*report["preprocessing"], {"op": "the model"}, *report["postprocessing"]]
    return {
        f"{number}. {step['op']}": ", ".join(f"{k} {v}" for k, v in step.items() if k != "op")
        for number, step in enumerate(steps, 1)
    }


def _table(title: str, rows: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><td>{escape(str(key))}<td class=soft>{escape(str(value))}"
        for key, value in rows.items()
    )
    return f"<h2>{escape(title)}</h2><table>{cells}</table>" if cells else ""


def _notes(notes: list[str]) -> str:
    if not notes:
        return ""
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}" for note in notes) + "</ul>"


def _bytes(count: float) -> str:
    if count < 10_000:
        return f"{count:.0f} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"
