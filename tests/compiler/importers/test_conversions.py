"""One case of each ONNX operator through conversion to TFLite: right, or refused as committed."""

import conversions
import node_cases
import pytest
from conversions import CONSTANT, REFUSED
from node_cases import RIGHT

SAMPLE = ("test_basic_conv_without_padding", "test_hardswish", "test_qlinearconv")


def test_a_sample_of_operators_converts_and_computes_the_same() -> None:
    outcomes = conversions.outcomes(list(SAMPLE), "conv,hardswish,qlinearconv")

    assert outcomes == dict.fromkeys(SAMPLE, RIGHT)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_one_case_of_every_operator_converts_or_is_refused_as_committed() -> None:
    selected = conversions.chosen()

    outcomes = conversions.outcomes(list(selected.values()))

    named = {f"{op} ({case})": outcomes[case] for op, case in selected.items()}
    refused = node_cases.committed(REFUSED)
    found = {op: result for op, result in named.items() if result not in (RIGHT, CONSTANT)}
    mended = refused.keys() - found.keys()
    assert not mended, f"these convert now; run conversions.py --update: {sorted(mended)}"
    assert found == refused
