"""How good a variant is, and when accuracies tell nothing."""

import numpy as np
import pytest

from edgec_compiler.judging import Verdict, doubt
from edgec_compiler.samples import Samples
from edgec_runtime.data import Data

FOUR = np.arange(40) % 4
ROWS = {"inputs": np.zeros((40, 1), np.float32)}


@pytest.mark.parametrize(
    ("labels", "accuracy", "doubtful"),
    [
        pytest.param(FOUR, 0.95, False, id="a model that knows its classes"),
        pytest.param(FOUR, 0.25, True, id="shuffled labels"),
        pytest.param(FOUR, 0.0, True, id="labels that start at another number"),
        pytest.param(np.ones(40, np.int64), 0.1, False, id="one class: no share to compare with"),
        pytest.param(np.ones(40, np.int64), 0.0, True, id="one class that the model never says"),
        pytest.param(None, None, False, id="no labels"),
    ],
)
def test_a_source_model_that_only_guesses_is_told(
    labels: np.ndarray | None, accuracy: float | None, doubtful: bool
) -> None:
    samples = Samples(Data(ROWS, labels), "evaluation", None)

    told = doubt(Verdict(accuracy, accuracy, 1.0, 40, "evaluation"), samples)

    assert bool(told) == doubtful
    assert all("the evaluation data's labels" in note for note in told)
