"""Picture files of unknown origin: decoded with care, or refused."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

# No other format is opened: PIL would pass an EPS file to Ghostscript, which runs it as a program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
FRAMES = ("PNG", "WEBP", "GIF", "TIFF")  # of these, a file may hold several pictures
# kinds of pixels with 8 bits a channel or fewer; those of 16 bits have names of their own
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
BROKEN, LARGE = "broken picture", "picture too large"
NOT_READ = "in a format that is not read, "
PIXELS = "with pixels that are not read, "  # such as numbers of 32 bits, whose range is not known
TRANSPARENT, ANIMATED, DEEP = "transparent", "animated", "deep"
# how such pictures are read, for the line that counts them
NOTES = {
    TRANSPARENT: "with transparency, shown on white",
    ANIMATED: "with several frames, of which the first is taken",
    DEEP: "of 16 bits, scaled to 8",
}
# formats that are told by their first bytes: where the mark stands, the mark, the name
MARKS = (
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftyp", "MP4"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "PSD"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"\x93NUMPY", "NumPy"),
    *((0, b"P%d" % i, "PNM") for i in range(1, 8)),
)


@dataclass(frozen=True)
class Look:
    """What a picture file is: its `problem` ("" for a picture that can be used), and how it is
    read where that is not plain (keys of `NOTES`)."""

    problem: str = ""
    notes: tuple[str, ...] = ()


def decode(data: bytes) -> Image.Image:
    """An upright RGB picture of 8 bits a channel: the first frame, 16 bits scaled to 8, what is
    transparent on white. Raises OSError or ValueError for data that is no picture, and
    DecompressionBombError above PIL's limit of pixels."""
    try:
        with _opened(data) as picture:
            return _plain(picture)
    except Image.DecompressionBombWarning as error:
        raise Image.DecompressionBombError(str(error)) from None
    except (OSError, ValueError, Image.DecompressionBombError):
        raise
    except Exception as error:  # PIL's readers raise a dozen kinds for damaged files
        raise ValueError(f"no picture that decodes: {error}") from None


def look(data: bytes) -> Look:
    """What a picture file is. It is decoded to its end; a JPEG at an eighth of its size, which is
    faster."""
    try:
        with _opened(data) as picture:
            if picture.mode not in MODES and not _deep(picture):
                return Look(f"{PIXELS}{picture.mode}")
            several = picture.format in FRAMES and picture.is_animated
            deep = _deep(picture)
            picture.draft("RGB", (1, 1))
            _plain(picture)
            clear = picture.has_transparency_data and _lowest_alpha(picture) < 255
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return Look(LARGE)
    except Exception:  # PIL's readers raise a dozen kinds for damaged files
        other = _other_format(data)
        return Look(f"{NOT_READ}{other}" if other else BROKEN)
    found = {TRANSPARENT: clear, ANIMATED: several, DEEP: deep}
    return Look("", tuple(note for note, holds in found.items() if holds))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            yield picture


def _deep(picture: Image.Image) -> bool:
    """Whether it has 16 bits of gray. PIL keeps the high 8 bits of 16-bit colours itself, and calls
    the pixels of a PNG I in older versions."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")


def _plain(picture: Image.Image) -> Image.Image:
    deep = _deep(picture)
    upright = ImageOps.exif_transpose(picture)
    if deep:
        wide = np.asarray(upright).astype(np.uint32)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return upright.convert("RGB")


def _lowest_alpha(picture: Image.Image) -> int:
    return picture.convert("RGBA").getchannel("A").getextrema()[0]


def _other_format(data: bytes) -> str:
    """The name of a format that is not read; "" where the first bytes tell none."""
    for start, mark, name in MARKS:
        if data[start : start + len(mark)] == mark:
            return name
    return "SVG" if b"<svg" in data[:1024].lower() else ""


def square(picture: Image.Image, side: int) -> np.ndarray:
    """The central square of a picture, scaled to `side` pixels: uint8 (side, side, 3)."""
    return np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS))
