"""Cross-attention maps of prompts at each step of guided sampling, for the detectors that read
attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import Difference, UserError
from t2i_backdoor_bench.detecting.walking import walk
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.capture import Capture

SIDES = Difference(
    what="layers whose maps are read",
    released="those of side 16 of Stable Diffusion 1.4, without the middle block",
    here="those of the smallest side from `size` on, without the middle block; larger maps are"
    " averaged down to `size`",
    why="not every model has the side: SDXL has 64 and 32, Stable Diffusion 2.1 of 768 px 96, 48"
    " and 24",
)


@torch.inference_mode()
def attention_over_time(
    model: T2IModel,
    prompts: Sequence[str],
    seed: int,
    steps: int,
    size: int,
    stop: int | None = None,
    padding: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cross-attention maps of the conditional prediction while `model` samples `prompts` (n) in
    `steps` steps, all from the same noise of `seed`.

    Returns (maps, lengths). Maps are (k, n, tokens, size, size) for the first k = `stop` steps
    (default: all): softmax over tokens, averaged over heads and over the layers of the side
    that `of_side` takes, without those of a U-Net's middle block. The number of tokens is that of
    the longest prompt, or with `padding` the model's context length. Lengths are int64 (n,): tokens
    of each prompt, start and end token included. Where the tokenizer has no start token, a map of
    zeros stands in its place. Only the first `stop` steps are computed. Raises UserError if
    all layers have smaller maps.
    """
    n, lengths = len(prompts), prompt_lengths(model, prompts)
    tokens = model.text_part.length if padding else int(lengths.max())
    started = model.text_part.cut("", return_special_tokens_mask=True)
    started = len(started.input_ids) > 1 and bool(started.special_tokens_mask[0])
    capture = partial(Capture, model, rows=n, tokens=tokens)
    found = [
        torch.stack(of_side(outer(step.seen), size)).mean(0)
        for step in walk(model, prompts, seed, steps, stop, capture)
    ]
    maps = torch.stack(found)
    return (maps, lengths) if started else (F.pad(maps, (0, 0, 0, 0, 1, 0)), lengths + 1)


def outer(seen: Capture) -> list[Tensor]:
    """The maps of all layers but those of a U-Net's middle block."""
    named = zip(seen.probs, seen.layers(), strict=True)
    return [maps for name, maps in named if not name.startswith("mid_block.")]


def of_side(layers: Sequence[Tensor], size: int) -> list[Tensor]:
    """The maps (n, tokens, h, w) of the layers of the smallest side from `size` on, averaged down
    to `size`: over squares, which overlap where the side is no multiple of it. Raises UserError
    where all sides are smaller."""
    sides = sorted({m.shape[-1] for m in layers})
    side = next((s for s in sides if s >= size), None)
    if side is None:
        has = ", ".join(map(str, sides)) or "none"
        raise UserError(
            f"no cross-attention layer has maps of side {size} or more; this model has {has}: give"
            " a smaller size"
        )
    found = [m for m in layers if m.shape[-1] == side]
    return found if side == size else [F.adaptive_avg_pool2d(m, size) for m in found]


def max_scaled(maps: Tensor) -> Tensor:
    """Maps (..., h, w), each divided by its maximum. They show where a token attends, not how
    strongly."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp(min=1e-12)


def prompt_lengths(model: T2IModel, prompts: Sequence[str], truncation: bool = True) -> Tensor:
    """Tokens of each prompt, start and end token included: int64 (n,). At most the model's context
    length, unless `truncation` is off."""
    return torch.tensor([len(model.text_part.cut(p, truncation).input_ids) for p in prompts])


def batches(prompts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Split the prompts into lists of at most `size`."""
    for first in range(0, len(prompts), size):
        yield list(prompts[first : first + size])
