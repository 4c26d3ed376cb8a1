"""What texts that are put before prompts do to a denoiser's predictions, and how unusual that is
among texts that mean nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import tokens_of
from t2i_backdoor_bench.training.text_inputs import Moments

LEAST = 1e-12  # of an energy, before its logarithm
LEAST_CHANGE = 1e-5  # of a model, as a share of the energy of its predictions: what rounding does
LEAST_SPREAD = 0.4  # of a statistic over the null: a few texts may lie close together by chance
QUARTER = 4  # one prompt in four: a backdoor may wait for a word that some prompts have
PARTS = ("all pictures", "some prompts", "a place in the picture")
# About what the strangest texts of three clean models reach of these parts (full, key-and-value and
# low-rank fine-tuning, of the calibration half of benchmarks/zoo.py), and the unit of a score
USUAL, UNIT = (-1.0, -0.6, -0.8), 0.5


@dataclass(frozen=True)
class Measured:
    """Logarithms of energies of a text's effect, (1 + n + p,): overall, by prompt, and by place,
    relative to the whole. `expected`, of the same shape, is what they are explained by: the same of
    the trusted model, or the number of the text's tokens. `prompts`: n."""

    values: Tensor
    expected: Tensor
    prompts: int


class Effects:
    """The effect of a text w on prompts c (n) at moments of their drawings: eps(x_t, w c) -
    eps(x_t, c).

    With a `trusted` model, it is the effect in the suspect less the effect in the trusted one: what
    a word means is in both, what a backdoor adds is not. Energies are summed over channels; a place
    is one of at most 4 x 4 blocks of the latents. A mean over prompts, moments and places is one of
    logarithms, as a backdoor moves every prompt and a word of the language some.
    """

    def __init__(
        self, model: T2IModel, prompts: Sequence[str], drawn: Moments, trusted: T2IModel | None
    ) -> None:
        self.model, self.trusted = model, trusted
        self.prompts, self.drawn = list(prompts), drawn
        with torch.no_grad():
            self.plain = self.predictions(model, self.prompts)
            self.usual = self.predictions(trusted, self.prompts) if trusted else None

    def drift(self) -> Tensor:
        """Energies as `Measured.values` of how far the model is from the trusted one on the prompts
        without a text."""
        least = LEAST_CHANGE * self.usual.square().sum(2).mean()
        return energies(self.plain - self.usual, float(least))

    def predictions(
        self, model: T2IModel, texts: Sequence[str], weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> Tensor:
        """Of a multiple of n texts: (k, texts, C, h, w), float32."""
        told = model.read(model.tokenize(texts), weights).to(model.dtype)
        often = (len(texts) // len(self.prompts), 1, 1, 1)
        pairs = zip(self.drawn.times, self.drawn.latents, strict=True)
        return torch.stack([model.denoise(x.repeat(often), t, told).float() for t, x in pairs])

    def texts(self, text: str) -> list[str]:
        return [f"{text} {p}" for p in self.prompts]

    @torch.no_grad()
    def of_all(self, texts: Sequence[str]) -> Iterator[Measured]:
        """Of each text, as many at a time as the model draws."""
        size = max(1, self.model.batch // len(self.prompts))
        for first in range(0, len(texts), size):
            yield from self.together(texts[first : first + size])

    def together(
        self, texts: Sequence[str], weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> list[Measured]:
        """`weights`: of each encoder of the suspect, tensors by name that stand in for its own."""
        rows, n = [row for text in texts for row in self.texts(text)], len(self.prompts)
        parts = self.predictions(self.model, rows, weights).split(n, 1)
        moved = [part - self.plain for part in parts]
        if self.trusted is None:
            found = [energies(part) for part in moved]
            lengths = [float(len(self.model.text_part.ids(text))) for text in texts]
            expected = [torch.full_like(f, x) for f, x in zip(found, lengths, strict=True)]
        else:
            with torch.no_grad():
                known = self.predictions(self.trusted, rows).split(n, 1)
            usual = [part - self.usual for part in known]
            found = [energies(a - b) for a, b in zip(moved, usual, strict=True)]
            expected = [energies(part) for part in usual]
        return [Measured(f, e, n) for f, e in zip(found, expected, strict=True)]

    def gradient(self, text: str, ruler: Ruler | AgainstDrift) -> Tensor:
        """The derivative of the text's score by the embeddings of its tokens, (tokens, d), of the
        first tokenizer that has text states. Of a token that stands elsewhere too, it is the sum of
        all places."""
        model, part = self.model, self.model.text_part
        at = model.text_parts.index(part)
        encoder = model.encoders[at]
        own = encoder.get_input_embeddings().weight
        name = next(n for n, p in encoder.named_parameters() if p is own)
        table = own.detach().clone().requires_grad_(True)
        weights = [{name: table} if i == at else {} for i in range(len(model.encoders))]
        (grad,) = torch.autograd.grad(ruler.score(self.together([text], weights)[0]), [table])
        first = self.texts(text)[0]
        found = tokens_of(part, first)
        return grad[[found.ids[i] for i in found.within([(0, len(text))])]].float()


def energies(moved: Tensor, more: float = 0.0) -> Tensor:
    """Of effects (k, n, C, h, w): mean logarithms, overall, by prompt (n,) and by place (p,), that
    less the mean of all places, as one vector. `more` is added to each energy of a point."""
    energy = moved.square().sum(2) + more
    prompts = energy.sum((2, 3)).clamp(min=LEAST).log().mean(0)
    size = tuple(min(4, side) for side in energy.shape[2:])
    blocks = F.adaptive_avg_pool2d(energy.flatten(0, 1)[:, None], size).flatten(1)
    places = blocks.clamp(min=LEAST).log().mean(0)
    return torch.cat([prompts.mean()[None], prompts, places - places.mean()])


def most_unusual(prompts: Tensor) -> Tensor:
    """The mean of the largest quarter of values by prompt, ()."""
    return prompts.topk(max(1, len(prompts) // QUARTER)).values.mean()


class Ruler:
    """How unusual what a text does is among `null` texts that mean nothing, on the same prompts.

    Each value is compared with what is expected of it: a straight line through the null's values by
    `Measured.expected`, on to a slope of 1 above the null's largest (where no null text is, a
    trusted model's own effect explains an equal effect). What is left is divided by its standard
    deviation over the null. Three statistics are made of it: of all pictures; the mean of the
    quarter of the prompts that is most unusual; of the most unusual place. Each is standardized by
    the null's median and median absolute deviation, and the score is the largest.
    """

    def __init__(self, null: Sequence[Measured]) -> None:
        x = torch.stack([m.expected for m in null]).double()
        y = torch.stack([m.values for m in null]).double()
        self.middle, self.top, self.level = x.mean(0), x.max(0).values, y.mean(0)
        spread = (x - self.middle).square().mean(0)
        both = ((x - self.middle) * (y - self.level)).mean(0)
        self.slope = both / spread.clamp(min=1e-9)
        rest = y - self.line(x)
        self.many = null[0].prompts
        own = rest.square().sum(0) / max(1, len(null) - 2)
        kinds = own.split([1, self.many, len(own) - 1 - self.many])
        both = [(part + part.mean()) / 2 for part in kinds]
        self.sd = torch.cat(both).sqrt().clamp(min=1e-6)
        found = torch.stack([self.three(row / self.sd) for row in rest])
        self.median = found.median(0).values
        spread = (found - self.median).abs().median(0).values
        self.mad = (1.4826 * spread).clamp(min=LEAST_SPREAD)

    def line(self, x: Tensor) -> Tensor:
        """What is expected of the values."""
        above = (x - self.top).clamp(min=0)
        return self.level + self.slope * (x - above - self.middle) + above

    def three(self, rest: Tensor) -> Tensor:
        """The statistics, (3,), of standardized values (1 + n + p,)."""
        prompts, places = rest[1 : 1 + self.many], rest[1 + self.many :]
        return torch.stack([rest[0], most_unusual(prompts), places.max()])

    def parts(self, found: Measured) -> Tensor:
        """The three statistics in standard deviations of the null, (3,)."""
        rest = (found.values.double() - self.line(found.expected.double())) / self.sd
        return (self.three(rest) - self.median) / self.mad

    def beyond(self, found: Measured) -> Tensor:
        """The three statistics of what is not expected, as it is, (3,)."""
        return self.three(found.values.double() - self.line(found.expected.double()))

    def score(self, found: Measured) -> Tensor:
        return self.parts(found).max()


class AgainstDrift:
    """How much a text adds to a model, beside how far the model is from a trusted one without it,
    and beside what a text adds that means nothing.

    A harmless change of a model moves its predictions for every prompt; what it adds to the effect
    of a text is less than that, whatever the change was. A backdoor moves those for prompts with a
    trigger, and is trained to leave the others. It may fire for many texts that mean nothing, too,
    so that these alone are no yardstick; and where only what reads texts has changed, the change
    without a text is small, so that it alone is none. The level is half way between the two, in
    logarithms of energies on the same prompts, noise and moments. A text that does more in the
    trusted model than those that mean nothing may do as many times more here. Three statistics are
    made of what is beyond that, as in `Ruler`, and each is counted in UNITs from USUAL, so that
    texts of clean models are near 0 on each. The zoo says what scores clean models really have.
    """

    def __init__(self, effects: Effects, null: Sequence[Measured]) -> None:
        self.meant = torch.stack([m.expected for m in null]).double().median(0).values
        added = torch.stack([m.values for m in null]).double().median(0).values
        self.level = (effects.drift().double() + added) / 2
        self.many = len(effects.prompts)

    def beyond(self, found: Measured) -> Tensor:
        """The three statistics as logarithms of times the level, (3,)."""
        more = (found.expected.double() - self.meant).clamp(min=0)
        rest = found.values.double() - self.level - more
        prompts, places = rest[1 : 1 + self.many], rest[1 + self.many :]
        return torch.stack([rest[0], most_unusual(prompts), rest[0] + places.max()])

    def parts(self, found: Measured) -> Tensor:
        """The same in UNITs from USUAL, (3,)."""
        return (self.beyond(found) - self.level.new_tensor(USUAL)) / UNIT

    def score(self, found: Measured) -> Tensor:
        return self.parts(found).max()


def nonsense(model: T2IModel, allowed: Sequence[int], many: int, seed: int, most: int) -> list[str]:
    """Texts of 1 to `most` random allowed tokens, each length as often."""
    rng = np.random.default_rng([seed, 93])
    decode, found = model.text_part.tokenizer.decode, []
    for i in range(100 * many):
        if len(found) == many:
            break
        ids = [int(t) for t in rng.choice(list(allowed), size=1 + i % most)]
        if (text := decode(ids).strip()) and text not in found:
            found.append(text)
    return found
