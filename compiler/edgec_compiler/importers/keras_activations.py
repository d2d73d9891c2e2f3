"""Activations that Keras 3 computes otherwise than Keras 2 did, under the same name.

hard_sigmoid  min(max(0.2 x + 0.5, 0), 1); it has a slope of 1/6 in Keras 3. Keras 2 gave it to the
              gates of LSTM and GRU by default until 2.3.
"""

import importlib
from typing import Any

import torch

_PLACES = ("activation", "recurrent_activation")


def hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Return Keras 2's hard sigmoid of x."""
    return (0.2 * x + 0.5).clamp(0, 1)


def compute_as_keras_2(model: Any) -> None:
    """Give the layers of `model`, and the cells in them, Keras 2's activations, in place."""
    keras: Any = importlib.import_module("keras")
    for layer in model._flatten_layers():
        for place in _PLACES:
            own = vars(layer).get(place)  # a recurrent layer only shows its cell's
            if own is keras.activations.hard_sigmoid:
                setattr(layer, place, hard_sigmoid)
