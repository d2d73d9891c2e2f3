"""How many of the source's operators an accelerator is said to run, where files differ from it."""

import pytest

from edgec_compiler.mapping.checking import Mapping, OperatorVerdict
from edgec_compiler.mapping.fitting import Accelerated, Fitted
from edgec_compiler.sizes import accelerated_share
from edgec_compiler.source import Operator, SourceModel


def _source(names: str, fmt: str = "onnx") -> SourceModel:
    operators = tuple(Operator(i, name, f"t{i}") for i, name in enumerate(names))
    return SourceModel(fmt, "m", "", 0, (), (), operators, None, None)


def _fitted(mapped: str) -> Fitted:
    """Return a file of one operator per letter, accelerated where it is small; Q quantises."""
    verdicts = [
        OperatorVerdict(
            i,
            "QUANTIZE" if letter in "qQ" else letter.lower(),
            "",
            "npu" if letter.islower() else "cpu",
        )
        for i, letter in enumerate(mapped)
    ]
    return Fitted(b"", "model.tflite", "tflite", Mapping("coral-edgetpu", tuple(verdicts), "told"))


@pytest.mark.parametrize(
    ("source", "fmt", "mapped", "expected"),
    [
        pytest.param("abc", "tflite", "abC", Accelerated(3, 2), id="the source's own"),
        pytest.param("abc", "onnx", "tuvwx", Accelerated(3, 3), id="all"),
        pytest.param("abc", "onnx", "TUVWX", Accelerated(3, 0), id="nothing"),
        pytest.param("abc", "tflite", "qaBQC", Accelerated(3, 1), id="quantised between"),
        pytest.param("abc", "onnx", "qaBQC", Accelerated(3, 0, (5, 2)), id="by chance alike"),
        pytest.param("abc", "tflite", "qaBQXC", Accelerated(3, 0, (6, 2)), id="something else"),
        pytest.param("abc", "onnx", "tuvwX", Accelerated(3, 2, (5, 4)), id="one may be split"),
        pytest.param("abc", "onnx", "tuVWXYZ", Accelerated(3, 0, (7, 2)), id="most on the CPU"),
    ],
)
def test_the_count_is_exact_or_the_least_with_the_files_own(
    source: str, fmt: str, mapped: str, expected: Accelerated
) -> None:
    assert _fitted(mapped).accelerated_of(_source(source, fmt)) == expected


def test_people_are_told_that_it_is_the_least() -> None:
    exact, least = Accelerated(14, 14), Accelerated(14, 0, (216, 15))

    assert accelerated_share(exact.to_json()) == "14 of 14"
    assert accelerated_share(least.to_json(), " operators on the accelerator") == (
        "at least 0 of 14 operators on the accelerator (15 of the file's 216)"
    )
