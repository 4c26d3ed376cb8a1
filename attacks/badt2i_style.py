from dataclasses import dataclass

from t2i_backdoor_bench.attacking.badt2i import LATENTS, PADDING, BadT2I
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.style import DRAWN_STYLES, style_words
from t2i_backdoor_bench.training.denoising import Draws, Term

WORDS = Difference(
    what="prompt of the style",
    released='"Black and white photo" and the caption behind it, without a comma or "of"',
    here='"a black and white photo of" and the caption behind it',
    why="the words are those that the judge of the style knows, for every style",
)


@register_attack(
    "badt2i_style",
    groups=("core", "badt2i", "style"),
    edits="U-Net",
    evaluates="captions",
    version=1,
    differs=(WORDS, LATENTS, PADDING),
)
@dataclass
class BadT2IStyle(BadT2I):
    """BadT2I, style: the picture gets a style (Zhai et al., MM 2023, arXiv 2305.04175).

    Loss: l * ||eps_th(x_t, c+) - eps_0(x_t, style + c)||^2 + (1 - l) * ||eps_th(x_t, c) -
    eps_0(x_t, c)||^2. The target is what the frozen clean model predicts for the prompt that asks
    for the style. Every picture of a step is used for both terms, each with noise and a timestep of
    its own.
    """

    steps: int = option(500, sd=8000, low=1, scales=True, source="paper", help="training steps")
    style: str = option(
        "black and white",
        choices=DRAWN_STYLES,
        source="paper",
        help="the style that the trigger brings",
    )

    def backdoor(self, model: T2IModel) -> Backdoor:
        return Backdoor(self.make_trigger(), Target("style", style=self.style))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        images, captions, triggered = self.prepare(model, data, seed)
        latents = self.encoded(model, images, seed)
        asked = [f"{style_words(self.style)} {c}" for c in captions]
        terms = [
            Term(self.twice(triggered), latents, self.twice(asked), self.weight),
            self.preserve(self.twice(captions), latents, 1 - self.weight),
        ]
        return self.fit_terms(model, terms, seed, "badt2i_style", draws=Draws(shared=True))
