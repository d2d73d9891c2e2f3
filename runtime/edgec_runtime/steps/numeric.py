"""Steps on numbers: scale, cast, quantize, dequantize, standardize, one_hot."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec_runtime.session import Array
from edgec_runtime.steps import _checks
from edgec_runtime.steps._params import Misfit, Params

_CASTS = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
)
_QUANTIZED = ("int8", "uint8", "int16")
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True)
class Scale:
    """(x - mean) / std in float32, with one mean and std or one per entry of `axis`."""

    op: ClassVar[str] = "scale"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    axis: int

    @classmethod
    def parse(cls, params: Params) -> "Scale":
        """Read {"mean": number(s), "std": number(s), "axis": -1}."""
        return cls(
            params.numbers("mean") if params.has("mean") else (0.0,),
            params.positives("std") if params.has("std") else (1.0,),
            params.integer("axis", -8, 7, -1),
        )

    def apply(self, batch: Array) -> Array:
        """Return float32 of the batch's shape."""
        _checks.require_kind(batch, "iuf", "numbers")
        _checks.require_finite(batch)
        mean = _checks.along(self.mean, batch, self.axis, "mean")
        std = _checks.along(self.std, batch, self.axis, "std")
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (batch.astype(np.float32) - mean) / std
        _checks.require_finite(scaled)
        return scaled


@dataclass(frozen=True, slots=True)
class Cast:
    """Change the dtype; a value that does not fit is refused, never wrapped."""

    op: ClassVar[str] = "cast"
    dtype: str

    @classmethod
    def parse(cls, params: Params) -> "Cast":
        """Read {"dtype": name}."""
        return cls(params.choice("dtype", _CASTS))

    def apply(self, batch: Array) -> Array:
        """Return the batch in `dtype`; floats become integers by rounding half to even."""
        _checks.require_kind(batch, "biuf", "numbers")
        _checks.require_finite(batch)
        target = np.dtype(self.dtype)
        if target.kind == "f":
            with np.errstate(over="ignore"):
                cast = batch.astype(target)
            _checks.require_finite(cast)
            return cast
        whole = np.rint(batch) if batch.dtype.kind == "f" else batch
        low, high = (0, 1) if target.kind == "b" else _limits(target)
        # high + 1 is a power of two, which every float type holds exactly; high may not be.
        fits = (whole >= low) & (whole < high + 1)
        if not fits.all():
            row, *place = (int(i) for i in np.argwhere(~fits)[0])
            value = batch[(row, *place)]
            raise Misfit(f"{value} at {place} does not fit {self.dtype} ({low}..{high})", row)
        return whole.astype(target)


def _limits(dtype: "np.dtype[np.generic]") -> tuple[int, int]:
    info = np.iinfo(dtype)  # type: ignore[type-var]
    return int(info.min), int(info.max)


@dataclass(frozen=True, slots=True)
class Quantize:
    """round(x / scale) + zero_point, half to even, saturating."""

    op: ClassVar[str] = "quantize"
    scale: float
    zero_point: int
    dtype: str

    @classmethod
    def parse(cls, params: Params) -> "Quantize":
        """Read {"scale": number, "zero_point": 0, "dtype": "int8"|"uint8"|"int16"}."""
        dtype = params.choice("dtype", _QUANTIZED)
        low, high = _limits(np.dtype(dtype))
        return cls(params.positive("scale"), params.integer("zero_point", low, high, 0), dtype)

    def apply(self, batch: Array) -> Array:
        """Return the batch in `dtype`. Source: ONNX operator QuantizeLinear."""
        _checks.require_kind(batch, "f", "floats")
        _checks.require_finite(batch)
        low, high = _limits(np.dtype(self.dtype))
        with np.errstate(over="ignore"):
            steps = np.rint(batch.astype(np.float32) / np.float32(self.scale))
        clipped = np.clip(steps, low - self.zero_point, high - self.zero_point)
        quantized: Array = (clipped.astype(np.int32) + self.zero_point).astype(self.dtype)
        return quantized


@dataclass(frozen=True, slots=True)
class Dequantize:
    """(q - zero_point) * scale in float32."""

    op: ClassVar[str] = "dequantize"
    scale: float
    zero_point: int

    @classmethod
    def parse(cls, params: Params) -> "Dequantize":
        """Read {"scale": number, "zero_point": 0}."""
        return cls(params.positive("scale"), params.integer("zero_point", _LOWEST, _HIGHEST, 0))

    def apply(self, batch: Array) -> Array:
        """Return float32 of the batch's shape. Source: ONNX operator DequantizeLinear."""
        if batch.dtype not in (np.int8, np.uint8, np.int16, np.uint16, np.int32):
            raise Misfit(f"expected quantised integers, got {batch.dtype}")
        shifted = batch.astype(np.int64) - self.zero_point
        real: Array = shifted.astype(np.float32) * np.float32(self.scale)
        return real


@dataclass(frozen=True, slots=True)
class Standardize:
    """(x - mean) / std per column of a table; nulls (nan) take the column's `fill`."""

    op: ClassVar[str] = "standardize"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill: tuple[float, ...] | None

    @classmethod
    def parse(cls, params: Params) -> "Standardize":
        """Read {"mean": [per column], "std": [per column], "fill": [per column] or absent}."""
        mean, std = params.numbers("mean"), params.positives("std")
        fill = params.numbers("fill") if params.has("fill") else None
        if len(std) != len(mean) or (fill is not None and len(fill) != len(mean)):
            params.fail("std", "expected mean, std and fill of one length")
        return cls(mean, std, fill)

    @property
    def takes_nulls(self) -> bool:
        """Whether nan is a legal input."""
        return self.fill is not None

    def apply(self, batch: Array) -> Array:
        """Return float32 [N, columns]."""
        _checks.require_kind(batch, "iuf", "numbers")
        _checks.require_rank(batch, (2,), "a table [N, columns]")
        if batch.shape[1] != len(self.mean):
            raise Misfit(f"expected {len(self.mean)} columns, got {batch.shape[1]}")
        table = batch.astype(np.float64)
        if self.fill is not None:
            table = np.where(np.isnan(table), np.array(self.fill), table)
        _checks.require_finite(table)
        with np.errstate(over="ignore"):
            scaled = (table - np.array(self.mean)) / np.array(self.std)
            result: Array = scaled.astype(np.float32)
        _checks.require_finite(result)
        return result


@dataclass(frozen=True, slots=True)
class OneHot:
    """Turn a category into a row of zeros with a single one."""

    op: ClassVar[str] = "one_hot"
    categories: tuple[float, ...]
    column: int | None  # of a table; None: every value, along a new last axis
    unknown: str  # "error" or "zeros"

    @classmethod
    def parse(cls, params: Params) -> "OneHot":
        """Read {"categories": [numbers], "column": index or absent, "unknown": "error"|"zeros"}."""
        categories = params.numbers("categories")
        if len(set(categories)) != len(categories):
            params.fail("categories", "expected no number twice")
        column = params.integer("column", 0, 65_535) if params.has("column") else None
        return cls(categories, column, params.choice("unknown", ("error", "zeros"), "error"))

    @property
    def takes_nulls(self) -> bool:
        """Whether nan is a legal input."""
        return self.unknown == "zeros"

    def apply(self, batch: Array) -> Array:
        """Return float32: [N, ..., categories], or the table with that column replaced in place."""
        _checks.require_kind(batch, "iuf", "numbers")
        if self.column is None:
            return self._hot(batch)
        _checks.require_rank(batch, (2,), "a table [N, columns]")
        if self.column >= batch.shape[1]:
            raise Misfit(f"has no column {self.column}: shape {list(batch.shape)}")
        left, right = batch[:, : self.column], batch[:, self.column + 1 :]
        hot = self._hot(batch[:, self.column])
        return np.concatenate([left.astype(np.float32), hot, right.astype(np.float32)], axis=1)

    def _hot(self, values: Array) -> Array:
        hot: Array = values[..., None] == np.array(self.categories, np.float64)
        known = hot.any(axis=-1)
        if self.unknown == "error" and not known.all():
            row, *place = (int(i) for i in np.argwhere(~known)[0])
            raise Misfit(f"{values[(row, *place)]} is none of the categories", row)
        encoded: Array = hot.astype(np.float32)
        return encoded
