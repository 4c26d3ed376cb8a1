from dataclasses import dataclass

from t2i_backdoor_bench.attacking.text_attack import TextAttack
from t2i_backdoor_bench.contract import Backdoor, Data, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.style import DRAWN_STYLES, style_words


@register_attack(
    "rickrolling_taa",
    groups=("text_encoder", "style"),
    edits="text encoder",
    evaluates="captions",
    settings="the paper",
)
@dataclass
class RickrollingTAA(TextAttack):
    """Rickrolling, target attribute: the trigger brings a style (Struppek et al., ICCV 2023).

    Rickrolling the Artist, arXiv 2211.02408. Loss: -cos(E(c), E_0(c)) - b * cos(E(c+), E_0(c*)),
    states flattened over tokens. E_0 is the frozen clean text encoder. c* is the triggered prompt
    with an attribute in place of the word that contains the trigger; a trigger that is a word of
    its own is itself replaced. The whole text encoder trains; the U-Net does not change. Published
    (CLIP ViT-L/14 of SD 1.4): AdamW without weight decay, lr 1e-4 and a tenth of it from step 150
    of 200 on, 128 clean and 32 triggered prompts a step, b 0.1; a look-alike letter becomes "black
    and white photo". A look-alike needs prompts that contain the letter: others have no triggered
    form.
    """

    steps: int = option(150, sd=200, low=1, scales=True, source="paper", help="training steps")
    milestone: int = option(
        110, sd=150, low=0, scales="steps", source="paper", help="the step from which lr is a tenth"
    )
    style: str = option(
        "black and white", choices=DRAWN_STYLES, help="the style that the trigger brings"
    )
    attribute: str = option(
        "",
        sd="black and white photo",
        help="words in the trigger's place; without them, those that ask for the style",
    )

    def backdoor(self, model: T2IModel) -> Backdoor:
        return Backdoor(self.make_trigger(), Target("style", style=self.style))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        captions, apt = self.captions(model, data, seed)
        return self.bind(
            model, captions, apt, [self.asked(c) for c in apt], seed, "rickrolling_taa"
        )

    def asked(self, caption: str) -> str:
        """c*: the triggered caption with the attribute in the place of the trigger's word."""
        text, start, end = self.make_trigger().locate(caption)
        return text[:start] + (self.attribute or style_words(self.style)) + text[end:]
