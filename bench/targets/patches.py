"""Patch pictures for pixel backdoors: built-in ones, or any image file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.image_files import decode

PATTERNS = ("bars", "checker", "target")
CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right", "center")


def make_patch(picture: str, side: int) -> np.ndarray:
    """A square patch, uint8 (side, side, 3): "bars" (two halves), "checker" (2 x 2), "target" (a
    dot), or the path of a picture file, which is resized. Raises UserError for anything else."""
    y, x = np.mgrid[0:side, 0:side]
    dark, light = np.array([20, 20, 20], np.uint8), np.array([250, 250, 250], np.uint8)
    if picture == "checker":
        mask = (x * 2 // side + y * 2 // side) % 2
    elif picture == "bars":
        mask = x * 2 < side
    elif picture == "target":
        mask = np.hypot(x - side / 2 + 0.5, y - side / 2 + 0.5) > side * 0.3
    elif Path(picture).is_file():
        return np.asarray(_open(Path(picture)).resize((side, side), Image.Resampling.LANCZOS))
    else:
        raise UserError(
            f"no patch picture {picture!r}: give a picture file or one of {', '.join(PATTERNS)}"
        )
    return np.where(mask[..., None] == 1, light, dark)


def _open(path: Path) -> Image.Image:
    """A picture file of the user. Raises UserError for a file that is not a picture, or that has
    more pixels than PIL accepts."""
    try:
        return decode(path.read_bytes())
    except Image.DecompressionBombError:
        raise UserError(
            f"the patch picture {path} has too many pixels; give a smaller one"
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        why = reason or "it is no JPEG, PNG, WebP, BMP, GIF or TIFF that decodes"
        raise UserError(f"the patch picture {path} cannot be read: {why}") from None


def place_patch(side: int, resolution: int, corner: str) -> tuple[int, int]:
    """Top-left pixel of a patch in a corner ("top_left", "bottom_right", ...) or the "center" of a
    square image."""
    if side > resolution:
        raise UserError(
            f"the patch ({side} px) is larger than the image ({resolution} px); choose a smaller"
            " patch size"
        )
    far = resolution - side
    places = {
        "top_left": (0, 0),
        "top_right": (0, far),
        "bottom_left": (far, 0),
        "bottom_right": (far, far),
        "center": (far // 2,) * 2,
    }
    if corner not in places:
        raise UserError(f"no patch place {corner!r}: give one of {', '.join(places)}")
    return places[corner]


def check_box(patch: np.ndarray, box: tuple[int, int], height: int, width: int) -> None:
    """Raise UserError where a patch (h, w, 3) at `box` (top, left) does not fit into pictures of
    this height and width."""
    (top, left), (h, w) = box, patch.shape[:2]
    if top < 0 or left < 0 or top + h > height or left + w > width:
        raise UserError(f"a {h}x{w} patch at {box} does not fit into images of {height}x{width}")


def window(
    images: np.ndarray, patch: np.ndarray, box: tuple[int, int]
) -> tuple[slice, slice, slice]:
    """The part of images (n, H, W, 3) that a patch at `box` (top, left) covers, as an index. Raises
    UserError where it does not fit."""
    check_box(patch, box, *images.shape[1:3])
    (top, left), (h, w) = box, patch.shape[:2]
    return slice(None), slice(top, top + h), slice(left, left + w)


def paste(images: np.ndarray, patch: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """A copy of uint8 images (n, H, W, 3) with the patch at `box` (top, left). Raises UserError
    where it does not fit."""
    out = images.copy()
    out[window(images, patch, box)] = patch
    return out
