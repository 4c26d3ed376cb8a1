import dataclasses
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from t2i_backdoor_bench.contract import (
    DefenderView,
    Defense,
    Difference,
    UserError,
    option,
    register_defense,
)
from t2i_backdoor_bench.contract.hashing import file_digest
from t2i_backdoor_bench.data.purification import listed, noisy_letters, other_words, plain_letters
from t2i_backdoor_bench.data.word_vectors import near_words
from t2i_backdoor_bench.models.model import T2IModel

KINDS = ("homoglyphs", "characters", "synonyms")
CANDIDATES = 15  # nearest words that are considered
SYNONYMS = Difference(
    what="synonyms",
    released="the 15 nearest words by counter-fitted word vectors, up to a squared distance of 0.2",
    here="a list of words of image prompts; with `vectors`, a file of such vectors, as released",
    why="no such vectors come with the suite, and the token embeddings of the embedded base hold no"
    " synonyms: the word nearest to 'small' is 'star', with a cosine of 0.22",
)
CHARACTERS = Difference(
    what="a change that makes another word",
    released="refused, where the word vectors of both are far apart",
    here="allowed",
    why="no word vectors come with the suite",
)
HOMOGLYPHS = Difference(
    what="table of look-alikes",
    released="a table of its own, which also writes the digits 0 and 1 as letters",
    here="Unicode's confusable characters, beside them a table; invisible ones are dropped, too",
    why="it is kept up to date, and leaves prompts in plain letters as they are",
)


def register(
    kind: str, rate: float, *differs: Difference, version: int = 1
) -> Callable[[type], type]:
    """The row `tpd_KIND`, with the share of words that the released code changes."""
    facts = {"preset": {"kind": kind, "rate": rate}, "version": version, "differs": differs}
    facts |= {"groups": ("purification",), "sources": {"rate": "released"}}
    return register_defense(f"tpd_{kind}", **facts)


@register("homoglyphs", 1.0, HOMOGLYPHS, version=2)
@register("characters", 1.0, CHARACTERS)
@register("synonyms", 0.5, SYNONYMS)
@dataclass
class TPD(Defense):
    """Textual Perturbations Defense: every prompt is changed (Chew et al., ECCV-W 2024).

    arXiv 2408.15721. The model reads the changed prompt. "homoglyphs" writes look-alike letters as
    Latin ones and drops invisible characters; "characters" drops a letter of each word or hits a
    key beside it; "synonyms" replaces words by near ones. Stop words stay. The fourth way is
    `tpd_back_translation`. The backdoor stays in the weights. A trigger that is an ordinary or a
    made-up word survives the first and the last. A prompt is always changed in the same way.
    """

    kind: str = option("homoglyphs", choices=KINDS, source="paper", help="what is changed")
    rate: float = option(
        1.0, low=0, high=1, source="released", help="share of words to change (not: homoglyphs)"
    )
    vectors: str = option(
        "", help="for synonyms: a text file of word vectors, a word and its numbers in each line"
    )
    distance: float = option(
        0.2, above=0, source="released", help="squared distance up to which words are near"
    )
    weights: str = field(default="", init=False)  # identifies the file in the keys of cells

    def __post_init__(self) -> None:
        if self.vectors:
            if not Path(self.vectors).is_file():
                raise UserError(f"vectors {self.vectors}: there is no such file")
            self.weights = file_digest(Path(self.vectors))

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        before, others = model.rewrite or (lambda prompt: prompt), listed
        if self.vectors:
            others = near_words(Path(self.vectors), CANDIDATES, self.distance)

        def rewrite(prompt: str) -> str:
            prompt = before(prompt)
            rng = np.random.default_rng([seed, zlib.crc32(prompt.encode())])
            if self.kind == "homoglyphs":
                return plain_letters(prompt)
            if self.kind == "characters":
                return noisy_letters(prompt, rng, self.rate)
            return other_words(prompt, rng, self.rate, others)

        return dataclasses.replace(model, rewrite=rewrite)
