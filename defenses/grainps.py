from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, register_defense
from t2i_backdoor_bench.detecting.locating import NOTHING
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.detecting.token_variation import content_words
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import state_span
from t2i_backdoor_bench.training.text_inputs import inputs_everywhere

Span = tuple[int, int]  # characters of a prompt: start, end

DIFFERS = (
    Difference(
        what="semantics alignment score",
        paper="of each word on the object words in the cross-attention; the formula is not in the"
        " abstract",
        here="how much nearer the other words' keys and values come to their own when the word is"
        " left out",
        why="the full text was not at hand: what the abstract leaves open is ours",
    ),
    Difference(
        what="object words",
        paper="the words that determine the main content of the picture",
        here="all words but stop words",
        why="no tagger is at hand, and it has to work on every caption",
    ),
    Difference(
        what="layers whose keys and values are read",
        paper="cross-attention",
        here="every projection of text; on FLUX those of its double blocks alone",
        why="in its single blocks text has no keys and values of its own",
    ),
    calibrated(paper="a multiple t of a scale of the prompt's own"),
)


@register_defense(
    "grainps",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    locates=True,
    paper="xu2025grainps",
    ours="the formula of the score, which the abstract does not give",
    differs=DIFFERS,
)
@dataclass
class GrainPS(Detector):
    """Fine-grained prompt screening: a detector that also locates (Xu et al., IJCAI 2025).

    A trigger bends what the other words project to in the cross-attention (semantics misalignment).
    The alignment a(o) of a word o in a prompt is the cosine of its keys and values there to those
    that it has by itself, mean over layers. The impact of a word w is the mean over the other words
    of a(o) without w minus a(o) with it. Score: the largest impact minus the mean of the others';
    the word that has it is the located one. Prompts that score above the 95th percentile of the
    defender's clean prompts are refused. A trigger that changes the picture and not the projections
    of other words, as one in the rest of the U-Net, is not seen.
    """

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        read = partial(impacts, replace(model, screen=None), seed=seed)
        found = screened(
            model,
            lambda asked: np.array([peak(read(p)[1]) for p in asked]),
            view.first(self.prompts),
            self.rate,
        )

        def locate(asked: Sequence[str]) -> np.ndarray:
            spans = []
            for words, values in map(read, asked):
                spans.append(words[int(values.argmax())] if len(values) > 1 else NOTHING)
            return np.array(spans, np.int64).reshape(-1, 2)

        return replace(found, locate=locate)


def peak(values: np.ndarray) -> float:
    """The largest of (n,) values minus the mean of the others; 0 where there is one or none."""
    if len(values) < 2:
        return 0.0
    top = int(values.argmax())
    return float(values[top] - np.delete(values, top).mean())


def impacts(model: T2IModel, prompt: str, seed: int) -> tuple[list[Span], np.ndarray]:
    """The content words of a prompt, and the impact of each: float64 (n,)."""
    words = content_words(prompt)
    if len(words) < 2:
        return words, np.zeros(len(words))
    without = [left_out(prompt, w, words) for w in words]
    alone = [prompt[a:b] for a, b in words]
    texts = [prompt, *(text for text, _ in without), *alone]
    places = [words, *(spans for _, spans in without), *([(0, len(w))] for w in alone)]
    seen = projections(model, texts, places, seed)
    whole, less, own = seen[0], seen[1 : len(words) + 1], [s[0] for s in seen[len(words) + 1 :]]
    values = []
    for w in range(len(words)):
        others = [o for o in range(len(words)) if o != w]
        gains = [
            alignment(part, own[o]) - alignment(whole[o], own[o])
            for o, part in zip(others, less[w], strict=True)
        ]
        values.append(float(np.mean(gains)))
    return words, np.array(values)


def left_out(prompt: str, word: Span, words: Sequence[Span]) -> tuple[str, list[Span]]:
    """The prompt without a word and the space behind it, and where the other words then stand."""
    a, b = word
    b += prompt[b : b + 1] == " "
    moved = [(s, e) if s < a else (s - b + a, e - b + a) for s, e in words if (s, e) != word]
    return prompt[:a] + prompt[b:], moved


def alignment(one: list[Tensor], other: list[Tensor]) -> float:
    """The mean over layers of the cosine of projections (d,); 0 of a word that was cut off."""
    if not one or not other:
        return 0.0
    pairs = zip(one, other, strict=True)
    return float(np.mean([float(F.cosine_similarity(x, y, dim=0)) for x, y in pairs]))


@torch.inference_mode()
def projections(
    model: T2IModel, texts: Sequence[str], places: Sequence[Sequence[Span]], seed: int
) -> list[list[list[Tensor]]]:
    """What the layers that project text give of words: by text, word and layer, (d,) in float64,
    mean over the word's tokens; of no layer where the word has no token. Where text changes from
    block to block, it is that of the first step of a drawing from the noise of `seed`."""
    layers, parts = model.family.keys_and_values(model.denoiser), model.text_parts
    found: list[list[list[Tensor]]] = []
    for first in range(0, len(texts), model.batch):
        part = texts[first : first + model.batch]
        outputs = given(model, part, seed)
        for row, (text, spans) in enumerate(
            zip(part, places[first : first + len(part)], strict=True)
        ):
            at = [state_span(parts, text, *span) for span in spans]
            found.append(
                [
                    [
                        layer(x[row, tokens].to(layer.weight.dtype)).double().mean(0)
                        for layer, x in zip(layers, outputs, strict=True)
                    ]
                    if tokens
                    else []
                    for tokens in at
                ]
            )
    return found


def given(model: T2IModel, texts: Sequence[str], seed: int) -> list[Tensor]:
    """What each of these layers is given of texts (n): (n, tokens, d)."""
    if not model.family.text_changes:
        inputs, _ = model.key_value_inputs(texts)
        return [inputs] * len(model.family.keys_and_values(model.denoiser))
    steps = model.drawing_steps(50)
    t = steps.timesteps[0]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, *model.latent_shape), generator=generator)
    x = steps.given(steps.start(noise.to(model.device, model.dtype)), t)
    x = x.expand(len(texts), -1, -1, -1)
    return inputs_everywhere(model, x, t, model.condition(texts))
