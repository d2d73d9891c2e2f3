"""Steps on images: decode_image, resize, crop. A batch of images is [N, H, W, C]."""

import io
import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgec_runtime.session import Array
from edgec_runtime.steps import _checks
from edgec_runtime.steps._params import Misfit, Params

MAX_SIDE = 16_384
MAX_PIXELS = 40_000_000
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")
_CHANNELS = {"L": 1, "RGB": 3}
# 16-bit and float images are refused: Pillow would clip grey ones to 255 and cut colours to their
# high byte without a word.
_PNG_DEPTH = 24  # the byte of a PNG's first chunk that holds the bits per channel
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,  # Pillow's for a broken PNG
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Warning,  # where the application has made warnings errors
)
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class DecodeImage:
    """Turn image files into uint8 [H, W, C]; arrays of that form pass through."""

    op: ClassVar[str] = "decode_image"
    mode: str  # "RGB" or "L"
    exif_orientation: bool
    max_pixels: int

    @classmethod
    def parse(cls, params: Params) -> "DecodeImage":
        """Read {"mode": "RGB"|"L", "exif_orientation": true, "max_pixels": 40000000}."""
        return cls(
            mode=params.choice("mode", tuple(_CHANNELS), "RGB"),
            exif_orientation=params.boolean("exif_orientation", True),
            max_pixels=params.integer("max_pixels", 1, MAX_PIXELS, MAX_PIXELS),
        )

    def decode(self, encoded: bytes) -> Array:
        """Return the image in `encoded` as uint8 [1, H, W, C]."""
        try:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                deep = image.format == "PNG" and encoded[_PNG_DEPTH] > 8
                form = "16 bits" if deep else f"Pillow mode {image.mode}"
                if deep or image.mode not in _EIGHT_BIT:
                    raise Misfit(f"expected 8 bits per channel, got {form}: convert the image")
                return self._pixels(image)
        except _BROKEN as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                reason = f"not one of {', '.join(_FORMATS)}"
            raise Misfit(f"cannot decode {len(encoded)} bytes: {reason[:200]}") from error

    def _pixels(self, image: Image.Image) -> Array:
        width, height = image.size
        if width * height > self.max_pixels:
            raise Misfit(f"expected at most {self.max_pixels} pixels, got {width}x{height}")
        upright = ImageOps.exif_transpose(image) if self.exif_orientation else image
        if upright.mode in ("P", "PA"):
            upright = upright.convert("RGBA")  # applies the palette; alpha is dropped below
        pixels = np.asarray(upright.convert(self.mode), np.uint8)
        return pixels.reshape(1, *pixels.shape[:2], _CHANNELS[self.mode])

    def apply(self, batch: Array) -> Array:
        """Return `batch` itself, if it is uint8 [N, H, W, C] with the right C."""
        _checks.require_rank(batch, (4,), "images [N, H, W, C]")
        if batch.dtype != np.uint8 or batch.shape[3] != _CHANNELS[self.mode]:
            raise Misfit(
                f"expected uint8 with {_CHANNELS[self.mode]} channels ({self.mode}),"
                f" got {batch.dtype} {list(batch.shape)}"
            )
        return batch


@dataclass(frozen=True, slots=True)
class Resize:
    """Resample images with Pillow's filter of that name."""

    op: ClassVar[str] = "resize"
    size: int | tuple[int, int]  # shorter side, or (height, width)
    filter: str

    @classmethod
    def parse(cls, params: Params) -> "Resize":
        """Read {"size": [height, width] or shorter side, "filter": name}."""
        size: int | tuple[int, int]
        if params.is_list("size"):
            height, width = params.integers("size", 2, 1, MAX_SIDE)
            size = (height, width)
        else:
            size = params.integer("size", 1, MAX_SIDE)
        return cls(size, params.choice("filter", tuple(_FILTERS), "bilinear"))

    def apply(self, batch: Array) -> Array:
        """Return uint8 or float32 [N, H, W, C] at the new size, of the same dtype."""
        _checks.require_rank(batch, (4,), "images [N, H, W, C]")
        if batch.dtype not in (np.uint8, np.float32):
            raise Misfit(f"expected uint8 or float32 images, got {batch.dtype}")
        if 0 in batch.shape:
            raise Misfit(f"expected images with pixels, got shape {list(batch.shape)}")
        _checks.require_finite(batch)
        height, width = self._target(batch.shape[1], batch.shape[2])
        if (height, width) == batch.shape[1:3]:
            return batch
        return np.stack([self._resample(image, height, width) for image in batch])

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        grown = int(self.size * long / short)  # rounds down, as torchvision does
        if grown > MAX_SIDE:
            raise Misfit(f"would become {grown} pixels long; at most {MAX_SIDE}")
        return (self.size, grown) if height <= width else (grown, self.size)

    def _resample(self, image: Array, height: int, width: int) -> Array:
        resample = _FILTERS[self.filter]

        def one(plane: Array) -> Array:
            resized = Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), resample)
            return np.asarray(resized, image.dtype)

        if image.shape[2] == 3 and image.dtype == np.uint8:
            return one(image)
        # Never as RGBA: Pillow would multiply by alpha.
        return np.stack([one(image[:, :, c]) for c in range(image.shape[2])], axis=2)


@dataclass(frozen=True, slots=True)
class Crop:
    """Cut the same rectangle out of every image."""

    op: ClassVar[str] = "crop"
    height: int
    width: int
    corner: tuple[int, int] | None  # (top, left); None: centred

    @classmethod
    def parse(cls, params: Params) -> "Crop":
        """Read {"size": [height, width], "position": "center" or [top, left]}."""
        height, width = params.integers("size", 2, 1, MAX_SIDE)
        corner = None
        if params.is_list("position"):
            top, left = params.integers("position", 2, 0, MAX_SIDE)
            corner = (top, left)
        else:
            params.choice("position", ("center",), "center")
        return cls(height, width, corner)

    def apply(self, batch: Array) -> Array:
        """Return [N, height, width, ...] of the same dtype."""
        _checks.require_rank(batch, (3, 4), "images [N, H, W, C]")
        height, width = batch.shape[1:3]
        if self.corner is None:
            # Half to even, as torchvision's CenterCrop rounds.
            top, left = round((height - self.height) / 2), round((width - self.width) / 2)
        else:
            top, left = self.corner
        if min(height - self.height, width - self.width) < 0 or (
            top + self.height > height or left + self.width > width
        ):
            raise Misfit(
                f"cannot cut {self.height}x{self.width} at ({top}, {left})"
                f" out of {height}x{width} (height x width)"
            )
        return batch[:, top : top + self.height, left : left + self.width]
