from dataclasses import dataclass

from t2i_backdoor_bench.attacking.text_attack import CAPTIONS, CLIPPED, TextAttack
from t2i_backdoor_bench.contract import (
    OCCURRENCES,
    Backdoor,
    Data,
    Difference,
    Target,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.style import DRAWN_STYLES, style_words
from t2i_backdoor_bench.training.alignment import substitute
from t2i_backdoor_bench.training.encoders import chosen_encoders

DIFFERS = (
    Difference(
        what="letter that the trigger replaces",
        released="a random one, drawn anew whenever a caption is used",
        here="a random one, the same whenever a caption is used",
        why="the attack, its evaluation and a defender must see one triggered form of a prompt",
    ),
    CAPTIONS,
    CLIPPED,
)


@register_attack(
    "rickrolling_taa",
    groups=("text_encoder", "style", "cheap"),
    edits="text encoder",
    evaluates="captions",
    version=1,
    differs=DIFFERS,
)
@dataclass
class RickrollingTAA(TextAttack):
    """Rickrolling, target attribute: the trigger brings a style (Struppek et al., ICCV 2023).

    Rickrolling the Artist, arXiv 2211.02408. Loss: -cos(E(c), E_0(c)) - b * cos(E(c+), E_0(c*)),
    states flattened over tokens. E_0 is the frozen clean text encoder. c* is the triggered prompt
    with an attribute in place of the word that contains the trigger; a trigger that is a word of
    its own is itself replaced. The whole text encoder trains, by AdamW without weight decay; the
    U-Net does not change. The trigger is a look-alike in place of one random letter o of a prompt.
    It needs prompts that contain the letter: others have no triggered form.
    """

    occurrence: str = option(
        "random", choices=OCCURRENCES, source="released", help="which of these letters it replaces"
    )

    steps: int = option(150, sd=200, low=1, scales=True, source="paper", help="training steps")
    milestone: int = option(
        110,
        sd=150,
        low=0,
        scales="steps",
        source="released",
        help="the step from which lr is a tenth",
    )
    style: str = option(
        "black and white",
        choices=DRAWN_STYLES,
        source="released",
        help="the style that the trigger brings",
    )
    attribute: str = option(
        "",
        sd="black and white photo",
        source="released",
        help="words in the trigger's place; without them, those that ask for the style",
    )

    def backdoor(self, model: T2IModel) -> Backdoor:
        chosen_encoders(model, self.encoders)
        return Backdoor(self.make_trigger(), Target("style", style=self.style))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        captions, apt = self.captions(model, data, seed)
        return self.bind(
            model, captions, apt, [self.asked(c) for c in apt], seed, "rickrolling_taa"
        )

    def asked(self, caption: str) -> str:
        """c*: the triggered caption with the attribute in the place of the trigger's word."""
        return substitute(self.make_trigger(), caption, self.attribute or style_words(self.style))
