"""report.html: the verdict first, estimates called estimates, no way out of the page's own text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest
from compiler_kit import TARGETS, Compiled, edgec

from edgec_bundle.archive import open_bundle
from edgec_compiler.recipe import Recipe
from edgec_compiler.report import index_page, page
from edgec_compiler.report.charts import Bar, Point, area, bars, columns, scatter, strip
from edgec_compiler.report.sections import candidates, compression
from edgec_compiler.report.summary import cost_tiles, judged


class Page(HTMLParser):
    """The tags and the words of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def facts_of(compiled: Compiled, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = compiled.folder / target
    report = json.loads(open_bundle(folder).read("report"))
    return report, json.loads((folder / "measurements.json").read_text())


@pytest.mark.parametrize("target", TARGETS)
def test_a_page_stands_alone_and_every_picture_has_its_words(
    compiled: Compiled, target: str
) -> None:
    found = Page((compiled.folder / target / "report.html").read_text())

    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object"}
    assert not [a for _, attrs in found.tags for a in attrs if a in ("src", "onclick", "onload")]
    pictures = [attrs for tag, attrs in found.tags if tag == "svg"]
    assert len(pictures) > 5
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    assert "nan" not in found.words.split()


def test_the_verdict_comes_before_everything_else(compiled: Compiled) -> None:
    words = Page((compiled.folder / "rpi4" / "report.html").read_text()).words

    first = words.index("Accuracy 97")
    assert first < words.index("Latency, estimated") < words.index("Size")
    assert "digits 1.0.0 for rpi4" in words[:first]
    assert "allowed are -1.00 points" in words


def test_only_what_was_measured_is_called_measured(compiled: Compiled) -> None:
    here = Page((compiled.folder / "generic-x86_64" / "report.html").read_text()).words
    there = Page((compiled.folder / "coral-edgetpu" / "report.html").read_text()).words

    assert "measured on this machine" in here
    assert "cold load" in here
    assert "not a measurement" in there
    assert "measured on this machine" not in there


def test_names_out_of_a_hostile_model_stay_text(compiled: Compiled) -> None:
    report, measured = facts_of(compiled, "coral-edgetpu")
    evil = "<script>alert('x')</script>'\" onload=y"
    report["layer_errors"]["layers"][0]["layer"] = evil
    report["mapping"]["ops"][0] |= {"op": evil, "reason": evil, "fix": evil, "on": evil}
    report["notes"] = [evil]
    report["latency_estimate"]["by_operator_ms"] = {evil: 1.0}

    found = Page(page(report, measured, [{"name": evil, "version": evil}]))

    assert "script" not in {tag for tag, _ in found.tags}
    assert not [a for _, attrs in found.tags for a in attrs if a == "onload"]
    assert found.words.count("alert('x')") >= 4


@pytest.mark.parametrize(
    ("data", "accuracy", "budget", "kind", "said"),
    [
        ("noise", None, None, "warn", "only noise"),
        ("calibration", None, None, "warn", "no budget was given"),
        ("calibration", None, {"limit": 0.02, "of": "agreement"}, "good", "2.00%"),
        (
            "evaluation",
            {"source": 0.9, "compiled": 0.90001},
            {"limit": 0.01, "of": "accuracy"},
            "good",
            "0.00 points against the source",
        ),
    ],
)
def test_the_verdict_says_what_it_rests_on(
    data: str, accuracy: dict[str, float] | None, budget: dict[str, Any], kind: str, said: str
) -> None:
    metrics = {"data": data, "accuracy": accuracy, "agreement": 0.99, "samples": 16}

    found = judged(metrics, budget)

    assert found[0] == kind
    assert said in found[1]


def candidate(precision: str, size: int, drop: float, **more: Any) -> dict[str, Any]:
    row = {**Recipe(precision).to_dict(), "bytes": size, "drop": drop}
    row |= {"accuracy": 0.9 - drop, "agreement": 0.9, "front": False, "chosen": False}
    return {**row, "refused": None, **more}


def test_candidates_are_shown_with_the_chosen_one_and_those_refused() -> None:
    rows = [
        candidate("fp32", 4000, 0.0, front=True),
        candidate("int8", 1000, 0.004, front=True, chosen=True, float_layers=["a", "b"]),
        candidate("int4", 0, 0.0) | {"bytes": None, "drop": None, "refused": "no calibration data"},
    ]
    found = Page(
        candidates({"candidates": rows, "judged_by": "accuracy", "max_accuracy_drop": 0.01})
    )

    assert "int8, 2 layers in float" in found.words
    assert "no calibration data" in found.words
    assert [attrs["class"] for tag, attrs in found.tags if tag == "tr" and attrs] == ["on"]
    assert candidates(None) == ""


def test_compression_says_what_went_and_what_stands_beside_it() -> None:
    found = compression(
        {
            "params": {"before": 1000, "after": 400},
            "macs": {"before": 5000, "after": 2000},
            "achieved": {"params": 0.6, "macs": 0.6, "zeros": 0.5},
            "quality": {"untrained": {"accuracy": 0.5}, "compressed": {"accuracy": 0.9}},
            "compared": "the compressed model, trained, with the source model as given",
            "kept": ["1 layer kept whole: the output keeps its classes"],
        }
    )

    words = Page(found).words
    assert "accuracy, compressed" in words
    assert "1 layer kept whole: the output keeps its classes." in words
    assert "1,000" in words
    assert "400" in words
    assert "50.0% of the remaining weights are zero" in words
    assert compression(None) == ""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (0, "the source has no weights, fp32"),
        (4000, "2.0x smaller than the source, fp32"),
        (1000, "2.0x larger than the source, fp32"),
    ],
)
def test_the_models_size_is_compared_with_a_source_that_has_one(source: int, said: str) -> None:
    report = {
        "metrics": {"bytes": {"source": source, "model": 2000}},
        "precision": "fp32",
        "estimates": {},
        "mapping": {"accelerated": 0},
        "lineage": {},
    }

    assert said in cost_tiles(report, {"latency_ms": None, "memory_bytes": None})


def test_charts_of_nothing_and_of_one_value_are_drawn() -> None:
    for drawn in (
        bars([Bar("a", 0, "none")]),
        columns([0.0], ["red"], 60, "one"),
        area([0], "one"),
        scatter([Point(1, 1), Point(1, 1)], "two"),
        strip([], "none"),
    ):
        assert "nan" not in drawn
        assert "aria-label" in drawn


def test_several_targets_have_a_page_that_leads_to_each(compiled: Compiled) -> None:
    found = Page((compiled.folder / "report.html").read_text())

    links = [attrs["href"] for tag, attrs in found.tags if tag == "a"]
    assert links == [f"{target}/report.html" for target in TARGETS]
    assert all((compiled.folder / str(link)).is_file() for link in links)
    assert "All 6 targets made." in found.words


def test_targets_that_failed_are_named_with_their_reason(compiled: Compiled) -> None:
    words = Page(index_page("digits", [compiled.facts["rpi4"]], {"rpi5": "no <room>"})).words

    assert "1 of 2 targets made." in words
    assert "rpi5: no <room>" in words


@pytest.mark.parametrize("target", ["generic-x86_64", "jetson-orin-nano"])
def test_nodes_of_a_lowered_onnx_model_are_in_order(compiled: Compiled, target: str) -> None:
    model = onnx.ModelProto.FromString(open_bundle(compiled.folder / target).read("model"))

    known = {i.name for i in model.graph.initializer} | {i.name for i in model.graph.input}
    for node in model.graph.node:
        assert {name for name in node.input if name} <= known
        known |= set(node.output)


def test_the_page_of_several_targets_cannot_hide_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "rpi4").mkdir()
    (tmp_path / "rpi4" / "thesis.txt").write_text("mine")

    done = edgec(
        "compile", "nothing.onnx", "--target", "rpi4", "--target", "rpi5", "--out", str(tmp_path)
    )

    assert done.code == 2
    assert not (tmp_path / "report.html").exists()
    assert re.search(r"nothing\.onnx|thesis", done.err)
