"""ONNX's own node tests: right, or refused for a committed reason; never wrong."""

import warnings

import node_cases
import pytest
from node_cases import RIGHT

SAMPLE = (
    "conv",
    "gemm",
    "lstm",
    "scan",
    "loop",
    "resize",
    "roialign",
    "dequantizelinear",
    "averagepool",
)


def _check(outcomes: dict[str, str], refused: dict[str, str]) -> None:
    wrong = {name: result for name, result in outcomes.items() if result.startswith("wrong")}
    assert not wrong
    found = {name: result for name, result in outcomes.items() if result != RIGHT}
    mended = refused.keys() - found.keys()
    assert not mended, f"these pass now; run node_cases.py --update: {sorted(mended)}"
    assert found == refused


@pytest.mark.filterwarnings("ignore")  # the cases' own references divide by zero
def test_a_sample_of_operators_is_right_or_refused_as_committed() -> None:
    cases = node_cases.cases(*SAMPLE)

    outcomes = {name: node_cases.outcome(case) for name, case in cases.items()}

    assert len(outcomes) > 100
    listed = node_cases.committed()
    _check(outcomes, {name: listed[name] for name in outcomes if name in listed})


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_node_test_is_right_or_refused_as_committed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = {name: node_cases.outcome(case) for name, case in node_cases.cases().items()}

    assert len(outcomes) == 1884
    _check(outcomes, node_cases.committed())
    assert list(outcomes.values()).count(RIGHT) >= 1700  # grows
