"""Picture files of unknown origin: decoded with care, or refused."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

# No other format is opened: PIL would pass an EPS file to Ghostscript, which runs it as a program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def decode(data: bytes) -> Image.Image:
    """An upright RGB picture. Raises OSError or ValueError for data that is no picture, and
    DecompressionBombError above PIL's limit of pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
        except Image.DecompressionBombWarning as error:
            raise Image.DecompressionBombError(str(error)) from None


def check_picture(data: bytes) -> str:
    """What is wrong with a picture: "picture too large", "broken picture", or "" for a good one.

    The picture is decoded to its end; a JPEG at an eighth of its size, which is faster.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                picture.draft("RGB", (1, 1))
                picture.load()
                return ""
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            return "picture too large"
        except (OSError, ValueError, SyntaxError, EOFError):
            return "broken picture"


def square(picture: Image.Image, side: int) -> np.ndarray:
    """The central square of a picture, scaled to `side` pixels: uint8 (side, side, 3)."""
    return np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS))
