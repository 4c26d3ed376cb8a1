"""How long the search of `vet` takes: the rows of the denoiser are counted, and a few are timed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.detecting import inversion, verdict
from t2i_backdoor_bench.detecting.inversion import Search
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.text_inputs import MOMENTS

GRADIENT = 3  # rows without a gradient that a row with one costs
GRADIENTS = 9  # of a round that changes texts: three texts, at three places each
LATE, LATE_AGAIN = 2, 3  # moments of a look, and of the last one
SLOW = 2.0  # seconds that one timing may take, as far as that can be known before it


def rows_of(how: Search, singles: int, given: int, named: int, models: int, guided: bool) -> int:
    """The rows that `detecting.verdict.examine` asks of denoisers, at most: rounds may find fewer
    new texts than they may try. `singles`: tokens that can be scanned; `given`: texts that are
    tried beside them; `named`: those of them that are looked at again in any case; `models`: 2 with
    a trusted one; `guided`: whether a drawing also asks the empty prompt. A row with a gradient
    counts as GRADIENT."""

    def look(texts: int, prompts: int, late: int = LATE, gradients: int = 0) -> int:
        asked = models * (texts + 1) + (GRADIENT + models - 1) * gradients
        return prompts * (asked * late + MOMENTS * (2 if guided else 1))

    total = look(2 * how.null + min(how.scan, singles) + given, how.scanned(models > 1))
    for number in range(1, how.rounds + 1):
        kept = inversion.KEPT * (2 if number == 1 else 1)
        changing = 1 < number <= how.rounds - how.rounds // 3
        new = (how.tried, GRADIENTS) if changing else (0, 0)
        total += look(how.null + kept + new[0], how.asked, gradients=new[1])
    return total + look(how.null_again + verdict.KEPT + named, how.again, LATE_AGAIN)


@torch.no_grad()
def seconds_a_row(
    model: T2IModel,
    prompts: Sequence[str],
    asked: int,
    now: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of one row of the denoiser, in a batch as a search with `asked` prompts has it, and
    with its share of the text encoders. A model that takes long for one row is asked no more."""
    t = model.drawing_steps(MOMENTS).timesteps[-1]

    def timed(rows: int, often: int) -> float:
        texts = list(itertools.islice(itertools.cycle(prompts), rows))
        x = model.draw_noise(range(rows)).to(model.dtype)
        begun = now()
        told = model.read(model.tokenize(texts)).to(model.dtype)
        for _ in range(often):
            float(model.denoise(x, t, told).sum())  # waits for the device
        return (now() - begun) / (rows * often)

    first = timed(1, 1)  # makes what later ones find made
    if first > SLOW:
        return first
    whole = max(1, model.batch // asked) * asked
    return timed(max(1, min(whole, int(SLOW / max(timed(1, 1), 1e-6)) // LATE)), LATE)


@dataclass
class Progress:
    """Says how long there is still to go. `total` and `done`: rows of denoisers."""

    total: int
    say: Callable[[str], None]
    now: Callable[[], float] = time.perf_counter
    done: int = field(default=0, init=False)
    begun: float = field(default=0.0, init=False)

    @contextmanager
    def counting(self, models: Sequence[T2IModel]) -> Iterator[None]:
        """A block in which what the denoisers of `models` are asked is counted."""
        self.begun = self.now()
        with ExitStack() as hooks:
            for model in models:
                hook = model.denoiser.register_forward_pre_hook(self.count, with_kwargs=True)
                hooks.callback(hook.remove)
            yield

    def count(self, module: nn.Module, given: tuple, named: dict[str, Any]) -> None:
        x = next(v for v in (*given, *named.values()) if isinstance(v, Tensor) and v.ndim)
        self.done += len(x) * (GRADIENT if torch.is_grad_enabled() else 1)

    def tell(self, text: str) -> None:
        if self.done:
            left = (self.now() - self.begun) * max(0, self.total - self.done) / self.done
            text = f"{text}; {words(left)} left"
        self.say(text)


def words(seconds: float) -> str:
    """A time, as somebody who waits wants to know it."""
    minutes = seconds / 60
    if minutes < 0.75:
        return "less than a minute"
    if minutes < 90:
        return "about a minute" if minutes < 1.5 else f"about {minutes:.0f} minutes"
    return f"about {minutes / 60:.1f} hours"
