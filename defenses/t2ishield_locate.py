from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.detecting.locating import NOTHING, Locate, Locator, word_spans
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.scoring.scorer import Scorer, load_encoder
from t2i_backdoor_bench.stats.estimates import threshold_at
from t2i_backdoor_bench.targets.cosines import unit

DIFFERS = (
    Difference(
        what="least cosine",
        paper="0.8",
        released="0.8",
        here="on the embedded base it is calibrated (`similarity=0`)",
        why="0.8 is a cosine of another CLIP on other pictures",
    ),
    Difference(
        what="what follows from the words found",
        paper="false alarms of the detector are dropped where nothing is found",
        released="a word for each prompt, or none",
        here="the words of all flagged prompts vote for one trigger",
        why="a removal is given one trigger, and single prompts err",
    ),
    Difference(
        what="words",
        released="what stands between spaces",
        here="without marks at its ends, unless it is marks alone; a single . , ; : ! or ? is none",
        why="a trigger is the same word before a comma",
    ),
    Difference(
        what="steps of the drawings",
        released="25",
        here="those of the base's sampler",
        why="a locator sees what the service draws",
    ),
)


@register_defense(
    "t2ishield_locate",
    needs=("clean_prompts", "stream"),
    gives=("trigger",),
    groups=("localization",),
    locates=True,
    differs=DIFFERS,
)
@dataclass
class T2IShieldLocate(Locator):
    """T2IShield, binary search over the words of a flagged prompt (Wang et al., ECCV 2024).

    arXiv 2407.04215. Each half of the words is drawn from the same noise as the whole prompt. A
    half is kept if the cosine of its picture to the picture of the whole prompt, in a public CLIP,
    is above a threshold: the first half if it is, else the second. If neither is, nothing is found.
    The method assumes that the trigger makes the whole picture, whatever stands beside it. The
    words of the flagged prompts then vote (`detecting.locating.vote`). `similarity=0` calibrates
    the threshold: in 95 % of the defender's clean prompts neither half reaches it.
    """

    similarity: float = option(
        0.0,
        sd=0.8,
        low=0,
        high=1,
        source="paper",
        help="least cosine to the whole prompt's picture; 0: calibrate it",
    )
    calibration: int = option(24, low=1, help="clean prompts that calibrate it")
    encoder: str = option(
        "shapes",
        sd="ViT-B-32:openai",
        source="released",
        help="the CLIP: shapes, a local folder, or model:checkpoint of open_clip",
    )

    def locator(
        self, model: T2IModel, view: DefenderView, flagged: Sequence[str], seed: int
    ) -> Locate:
        encoder, limit = load_encoder(self.encoder, str(model.device)), self.similarity
        if not limit:
            clean = view.first(min(self.calibration, len(view.prompts)))
            halves = [split(p, 0, len(word_spans(p))) for p in clean]
            whole = pictures(model, encoder, clean, seed)
            limit = threshold_at(
                np.maximum(
                    *(cosines(model, encoder, whole, [h[i] for h in halves], seed) for i in (0, 1))
                ),
                0.05,
            )
        return partial(search, model, encoder, limit=limit, seed=seed)


def search(
    model: T2IModel, encoder: Scorer, prompts: Sequence[str], limit: float, seed: int
) -> np.ndarray:
    """The span of the word that each prompt's search ends at: int64 (n, 2). All prompts advance
    together, one halving a round."""
    spans = [word_spans(p) for p in prompts]
    ends = [(0, len(s)) for s in spans]
    whole = pictures(model, encoder, prompts, seed)
    while open_ := [i for i, (a, b) in enumerate(ends) if b - a > 1]:
        halves = [split(prompts[i], *ends[i]) for i in open_]
        first, second = (
            cosines(model, encoder, whole[open_], [h[k] for h in halves], seed) for k in (0, 1)
        )
        for i, one, two in zip(open_, first, second, strict=True):
            a, b = ends[i]
            middle = (a + b) // 2
            ends[i] = (a, middle) if one > limit else (middle, b) if two > limit else (0, 0)
    return np.array(
        [spans[i][a] if b > a else NOTHING for i, (a, b) in enumerate(ends)], np.int64
    ).reshape(-1, 2)


def split(prompt: str, a: int, b: int) -> tuple[str, str]:
    """The words a..b of a prompt as two texts; one word alone is the second, behind an empty
    first."""
    spans, middle = word_spans(prompt), (a + b) // 2
    return tuple(
        prompt[spans[i][0] : spans[j - 1][1]] if j > i else ""
        for i, j in ((a, middle), (middle, b))
    )


def pictures(model: T2IModel, encoder: Scorer, prompts: Sequence[str], seed: int) -> np.ndarray:
    """Unit features of what the model draws from the noise of `seed`: float64 (n, d)."""
    return unit(
        encoder.encode_images(model.generate(list(prompts), [seed] * len(prompts), "locate"))
    )


def cosines(
    model: T2IModel, encoder: Scorer, whole: np.ndarray, prompts: Sequence[str], seed: int
) -> np.ndarray:
    return (whole * pictures(model, encoder, prompts, seed)).sum(1)
