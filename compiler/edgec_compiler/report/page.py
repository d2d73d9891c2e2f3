"""The report of one bundle."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec_compiler.report import sections, summary
from edgec_compiler.report.html import document, notes

Facts = Mapping[str, Any]


def page(report: Facts, measured: Facts, components: Sequence[Facts] = ()) -> str:
    """Return the page for one bundle.

    Args:
        report: report.json.
        measured: measurements.json.
        components: of the bill of materials.
    """
    target, metrics = report["target"], report["metrics"]
    compression = report.get("compression")
    title = f"{report['model']['name']} {report['model']['version']} for {target['name']}"
    return document(
        title,
        [
            f"<header><h1>{escape(title)}</h1><p class=soft>{escape(target['title'])}</p></header>",
            summary.verdict(metrics, report.get("budget")),
            summary.cost_tiles(report, measured),
            notes(report["notes"]),
            summary.quality(metrics),
            summary.sizes(metrics, compression),
            summary.timing(report, measured),
            sections.candidates(report.get("search")),
            sections.layers(report["layer_errors"]),
            sections.mapping(report["mapping"]),
            sections.memory(report),
            sections.compression(compression),
            sections.delta(report["lineage"].get("delta")),
            sections.origins(report, components),
        ],
    )
