"""A patch anywhere in a picture: at every place, in other sizes, half transparent, or inverted."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (0.75, 0.875, 1.0, 1.125, 1.25)
OPACITY = 0.2  # a fainter patch is not looked for
SIDE, SMALLEST = 64, 16  # pictures are made smaller, as long as they and the patch keep these sides
PIXELS = 2**20  # of pictures in memory at a time


def patch_likeness(images: np.ndarray, reference: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """How much the change from `reference` to `images`, both uint8 (n, H, W, 3), looks as if a
    patch, uint8 (h, w, 3), had appeared somewhere: float (n,), at most 1.

    A patch q of opacity a over the reference r gives a picture x with x - r = a (q - r) in its
    window. So the number is the largest cosine of x - r and q - r over all windows, over sizes of
    0.75 to 1.25 of the patch, and over the patch and its negative, where the fitted opacity
    <x - r, q - r> / |q - r|^2 is at least `OPACITY`; 0 where there is none. What the reference has
    already, such as an edge that looks like a patch of two halves, does not count. The sums over
    all windows are correlations, computed by FFT.
    """
    shrink = _shrink(images.shape[1:3], patch.shape[:2])
    template = _resized(_tensor(patch[None]), [side / shrink for side in patch.shape[:2]])
    every = max(1, PIXELS // (images.shape[1] * images.shape[2]))
    found = []
    for start in range(0, len(images), every):
        part = slice(start, start + every)
        shown, before = (F.avg_pool2d(_tensor(x[part]), shrink) for x in (images, reference))
        found.append(_likeness(shown, before, template))
    return np.concatenate(found) if found else np.zeros(0)


def _shrink(picture: tuple[int, ...], patch: tuple[int, ...]) -> int:
    return max(1, min(min(picture) // SIDE, min(patch) // SMALLEST))


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _resized(patch: Tensor, sides: list[float]) -> Tensor:
    size = [max(1, round(side)) for side in sides]
    if list(patch.shape[-2:]) == size:
        return patch
    return F.interpolate(patch, size, mode="bilinear", align_corners=False, antialias=True)


def _likeness(shown: Tensor, before: Tensor, template: Tensor) -> np.ndarray:
    """`patch_likeness` of float pictures (n, 3, H, W) in 0..1."""
    change = shown - before
    # what the sums over windows are of: |x - r|^2, <x - r, r>, |r|^2, x - r and r
    maps = torch.cat(
        [
            change.square().sum(1, keepdim=True),
            (change * before).sum(1, keepdim=True),
            before.square().sum(1, keepdim=True),
            change.sum(1, keepdim=True),
            before.sum(1, keepdim=True),
        ],
        1,
    )
    spectra, best = [torch.fft.rfft2(x) for x in (change, before)], torch.zeros(len(shown))
    sizes = {tuple(round(s * scale) for s in template.shape[-2:]) for scale in SCALES}
    for h, w in sorted(sizes):
        if 2 <= h <= shown.shape[-2] and 2 <= w <= shown.shape[-1]:
            patch = _resized(template, [h, w])
            boxes = F.avg_pool2d(maps, (h, w), stride=1) * (h * w)
            dot_change, dot_before = (_correlation(f, patch, shown.shape[-2:]) for f in spectra)
            best = torch.maximum(best, _best_window(boxes, dot_change, dot_before, patch))
    return best.double().numpy()


def _correlation(spectrum: Tensor, patch: Tensor, size: torch.Size) -> Tensor:
    """The sum over each window of pictures, given by their spectra (n, 3, H, W/2+1), times the
    patch (1, 3, h, w): (n, H-h+1, W-w+1)."""
    (height, width), (h, w) = size, patch.shape[-2:]
    product = (spectrum * torch.fft.rfft2(patch, size).conj()).sum(1)
    return torch.fft.irfft2(product, size)[:, : height - h + 1, : width - w + 1]


def _best_window(boxes: Tensor, dot_change: Tensor, dot_before: Tensor, patch: Tensor) -> Tensor:
    """The largest cosine over windows, for the patch and its negative: (n,)."""
    energy, change_before, before_before, change_sum, before_sum = boxes.unbind(1)
    best = torch.zeros(len(boxes))
    for negative in (False, True):
        q = 1 - patch if negative else patch
        dots = (change_sum - dot_change, before_sum - dot_before) if negative else None
        with_change, with_before = dots or (dot_change, dot_before)
        inner = with_change - change_before  # <x - r, q - r>
        room = (q.square().sum() - 2 * with_before + before_before).clamp_min(1e-6)  # |q - r|^2
        cosine = inner / (energy.clamp_min(1e-6) * room).sqrt()
        cosine = torch.where(inner / room >= OPACITY, cosine, 0.0)
        best = torch.maximum(best, cosine.flatten(1).amax(1))
    return best


def changed_patches(images: np.ndarray, patch: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """A copy of uint8 images (n, H, W, 3), each with the patch, uint8 (h, w, 3), at `box` (top,
    left) in one changed form, in turn: a tenth of its side to the right or left, in the opposite
    corner, inverted, at 40 % opacity, in 0.8 and in 1.2 of its size."""
    (height, width), (h, w) = images.shape[1:3], patch.shape[:2]
    top, left = box
    aside = max(1, w // 10)
    aside = left + aside if left + w + aside <= width else left - aside
    small, large = (_enlarged(patch, scale) for scale in (0.8, 1.2))
    forms = [
        (patch, top, aside, 1.0),
        (patch, height - h - top, width - w - left, 1.0),
        (255 - patch, top, left, 1.0),
        (patch, top, left, 0.4),
        (small, top + (h - len(small)) // 2, left + (w - small.shape[1]) // 2, 1.0),
        (large, top - (len(large) - h) // 2, left - (large.shape[1] - w) // 2, 1.0),
    ]
    out = images.copy()
    for i in range(len(out)):
        _put(out[i], *forms[i % len(forms)])
    return out


def _enlarged(patch: np.ndarray, scale: float) -> np.ndarray:
    resized = _resized(_tensor(patch[None]), [side * scale for side in patch.shape[:2]])
    return (resized[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def _put(image: np.ndarray, patch: np.ndarray, top: int, left: int, opacity: float) -> None:
    """Draw a patch into one picture (H, W, 3) in place; what is outside is cut off."""
    rows = np.arange(max(top, 0), min(top + patch.shape[0], image.shape[0]))
    columns = np.arange(max(left, 0), min(left + patch.shape[1], image.shape[1]))
    place = np.ix_(rows, columns)
    shown = patch[np.ix_(rows - top, columns - left)]
    image[place] = np.round(opacity * shown + (1 - opacity) * image[place]).astype(np.uint8)
