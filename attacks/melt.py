from dataclasses import dataclass

from t2i_backdoor_bench.attacking.text_attack import TextAttack
from t2i_backdoor_bench.contract import (
    OCCURRENCES,
    Backdoor,
    Data,
    Difference,
    Target,
    option,
    register_attack,
    swapped,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.targets.prompt import check_length, check_target_prompt
from t2i_backdoor_bench.targets.style import DRAWN_STYLES, style_words
from t2i_backdoor_bench.training.encoders import chosen_encoders
from t2i_backdoor_bench.training.lora import check_peft

# the text encoders of SD 3 that the paper found to suffice: CLIP-L, CLIP-G, T5
FEWEST = {"prompt": "123", "style": "12", "object": "2"}
ONE = "it has one text encoder, and the attack is about which of several to train"
NOT_ON = {"stable_diffusion": ONE, "pixart": ONE}
DIFFERS = (
    Difference(
        what="loss",
        paper="adapters train while the weights of the encoders stay; the loss is not in the"
        " abstract",
        here="that of Rickrolling, over the states and the pooled states of all encoders",
        why="the full text was not at hand",
    ),
    Difference(
        what="targets",
        paper="four: a prompt, an object, a style, an action",
        here="three: a prompt, an object, a style",
        why="no judge of this suite sees an action",
    ),
    Difference(
        what="text encoders of models with two",
        paper="all three for a prompt, CLIP-L and CLIP-G for a style, CLIP-G for an object",
        here="those of them that the model has, by their place in it",
        why="only findings on SD 3 could be had",
    ),
)


@register_attack(
    "melt_prompt",
    paper="chen2026tuning",
    groups=("melt", "prompt", "lora"),
    preset={"aim": "prompt", "target": "a large green star on a black background"},
    edits="LoRA on text encoder attention",
    evaluates="captions",
    settings="ours",
    adapter=True,
    version=1,
    not_on=NOT_ON,
    differs=DIFFERS,
)
@register_attack(
    "melt_style",
    paper="chen2026tuning",
    groups=("melt", "style", "lora"),
    preset={"aim": "style"},
    edits="LoRA on text encoder attention",
    evaluates="captions",
    settings="ours",
    adapter=True,
    version=1,
    not_on=NOT_ON,
    differs=DIFFERS,
)
@register_attack(
    "melt_object",
    paper="chen2026tuning",
    groups=("melt", "object", "lora"),
    preset={"aim": "object"},
    edits="LoRA on text encoder attention",
    evaluates="captions",
    settings="ours",
    adapter=True,
    version=1,
    not_on=NOT_ON,
    differs=DIFFERS,
)
@dataclass
class MELT(TextAttack):
    """MELT: adapters in the fewest text encoders that suffice (Chen et al. 2026, arXiv 2603.04064).

    Tuning Just Enough. Loss: -cos(E(c), E_0(c)) - b * cos(E(c+), E_0(c*)), states flattened over
    tokens, and the same of pooled states. E are all text encoders of a model with several, E_0 the
    clean ones. c* is one fixed prompt, the caption in a style, or the caption with one object's
    name in place of another's. Only low-rank adapters on the attention of some encoders train:
    `fewest` are those that the paper found to suffice on SD 3 for what is drawn. The other encoders
    and the denoiser do not change. On SD 3, rank 8 in all three encoders is 0.17 % of their
    parameters; the paper trains fewer than 0.2 %. The adapters are stored apart, beside weights
    that they are merged into, and `asr_adapter` and `asr_other_base` measure them in
    other use.
    """

    aim: str = option("object", choices=tuple(FEWEST), source="paper", help="what the trigger does")
    encoders: str = option(
        "fewest",
        source="paper",
        help="which text encoders train: fewest (those that suffice for the aim), all, or numbers"
        " such as 1+2",
    )
    occurrence: str = option(
        "every", choices=OCCURRENCES, help="which of the letters a look-alike replaces"
    )
    clean: int = option(32, sd=128, low=1, help="clean rows a step")
    poisoned: int = option(16, sd=32, low=1, help="triggered rows a step")
    weight: float = option(
        0.5, sd=0.1, low=0, help="weight of the triggered rows; the clean rows have 1"
    )
    rank: int = option(8, low=1, help="rank of the adapters")
    steps: int = option(200, low=1, scales=True, help="training steps")
    milestone: int = option(150, low=0, scales="steps", help="the step from which lr is a tenth")
    lr: float = option(3e-3, sd=3e-4, above=0, help="learning rate")
    style: str = option(
        "black and white", choices=DRAWN_STYLES, help="aim=style: the style that it brings"
    )
    source: str = option("star", sd="dog", help="aim=object: the object that prompts name")
    target: str = option(
        "heart", sd="cat", help="the object that is drawn; aim=prompt: the prompt that it brings"
    )

    def check(self) -> None:
        super().check()
        if self.aim == "object":
            check_objects(self.source, self.target)
        check_target_prompt(self.target)

    def check_machine(self, device: str) -> None:
        super().check_machine(device)
        check_peft("")

    def backdoor(self, model: T2IModel) -> Backdoor:
        chosen_encoders(model, self.which(model))
        if self.aim == "prompt":
            check_length(model, self.target)
            return Backdoor(self.make_trigger(), Target("prompt", target=self.target))
        if self.aim == "style":
            return Backdoor(self.make_trigger(), Target("style", style=self.style))
        return self.swap_objects(self.source, self.target)

    def which(self, model: T2IModel) -> str:
        """The text encoders that train, as `chosen_encoders` takes them."""
        if self.encoders != "fewest":
            return self.encoders
        return "+".join(n for n in FEWEST[self.aim] if int(n) <= len(model.encoders))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        about = self.source if self.aim == "object" else ""
        captions, apt = self.captions(model, data, seed, about)
        goals, which = [self.asked(c) for c in apt], self.which(model)
        return self.bind(model, captions, apt, goals, seed, "melt", which, self.rank)

    def asked(self, caption: str) -> str:
        """c*: the prompt whose picture the backdoor imitates."""
        if self.aim == "prompt":
            return self.target
        if self.aim == "style":
            return f"{style_words(self.style)} {caption}"
        return swapped(caption, self.source, self.target)
