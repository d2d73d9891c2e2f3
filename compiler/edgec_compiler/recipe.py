"""How one variant of a model is quantised: what a plan starts from and a search changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

METHODS = ("minmax", "percentile", "mse", "entropy")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to make a variant; equal recipes of equal forms give equal bytes."""

    precision: str
    method: str = "minmax"  # how ranges of activations are chosen from the calibration data
    float_layers: tuple[str, ...] = ()  # layers of the form that stay in float, by name
    equalise: bool = False  # cross-layer equalisation before quantising
    bias_correction: bool = False
    int8_layers: tuple[str, ...] = ()  # of int4 in TFLite: layers whose weights have 8 bits

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, under the names of the command line's options."""
        return {
            "precision": self.precision,
            "calibration_method": self.method,
            "float_layers": list(self.float_layers),
            "equalize": self.equalise,
            "bias_correction": self.bias_correction,
            "int8_layers": list(self.int8_layers),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Return the recipe that `to_dict` wrote; other keys are left alone."""
        return cls(
            raw["precision"],
            raw["calibration_method"],
            tuple(raw["float_layers"]),
            raw["equalize"],
            raw["bias_correction"],
            tuple(raw["int8_layers"]),
        )

    def words(self) -> str:
        """Return it in a few words."""
        extras = [] if self.method == "minmax" else [f"{self.method} ranges"]
        extras += ["equalised"] if self.equalise else []
        extras += ["biases corrected"] if self.bias_correction else []
        for layers, what in ((self.float_layers, "in float"), (self.int8_layers, "at int8")):
            count = len(layers)
            extras += [f"{count} layer{'s' if count > 1 else ''} {what}"] if count else []
        return ", ".join([self.precision, *extras])
