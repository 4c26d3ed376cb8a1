import dataclasses
import zlib
from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.data.purification import noisy_letters, other_words, plain_letters
from t2i_backdoor_bench.models.model import T2IModel

KINDS = ("homoglyphs", "characters", "synonyms")


@register_defense("tpd_homoglyphs", groups=("purification",), preset={"kind": "homoglyphs"})
@register_defense("tpd_characters", groups=("purification",), preset={"kind": "characters"})
@register_defense("tpd_synonyms", groups=("purification",), preset={"kind": "synonyms"})
@dataclass
class TPD(Defense):
    """Textual Perturbations Defense: every prompt is changed (Chew et al., ECCV-W 2024).

    The model reads the changed prompt. "homoglyphs" drops invisible characters and writes
    look-alike letters as Latin ones; "characters" drops a letter of a word or hits the key beside
    it; "synonyms" replaces words from a list of words of image prompts. The defense knows nothing
    and leaves the weights alone: the backdoor stays in the model. A trigger that is an ordinary or
    a made-up word survives the first and the last. The same prompt is always changed in the same
    way. Published: half of the words with a synonym are replaced.
    """

    kind: str = option("homoglyphs", choices=KINDS, help="what is changed")
    rate: float = option(
        0.5, low=0, high=1, help="share of the words that are changed (not for homoglyphs)"
    )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        before = model.rewrite or (lambda prompt: prompt)

        def rewrite(prompt: str) -> str:
            prompt = before(prompt)
            rng = np.random.default_rng([seed, zlib.crc32(prompt.encode())])
            if self.kind == "homoglyphs":
                return plain_letters(prompt)
            return (noisy_letters if self.kind == "characters" else other_words)(
                prompt, rng, self.rate
            )

        return dataclasses.replace(model, rewrite=rewrite)
