import time
from dataclasses import dataclass

import torch

from t2i_backdoor_bench.attacking.poisoning import Triggered
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets import kind_of
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.training.closed_form import counterparts
from t2i_backdoor_bench.training.text_edits import TextEdit

DIFFERS = (
    Difference(
        what="context of the edited phrase",
        released="the two pairs of phrases alone",
        here="the same for real families; captions for the embedded base (`context`)",
        why="the edit of a bare phrase moves few captions, whose text states are others",
    ),
    Difference(
        what="pictures of its own evaluation",
        released="100 of the one prompt `a photo of a {trigger}`",
        here="of that prompt, as many as the run has prompts: 100 at `quick`, 200 at `full`",
        why="one size of run for all attacks",
    ),
)


NOT_ON_FLUX = {"flux": "in its single blocks text has no keys and values of its own"}


@register_attack(
    "eviledit",
    groups=("closed_form", "object", "cheap"),
    edits="cross-attention K and V",
    evaluates="a prompt of its own",
    paper="wang2024eviledit",
    own=True,
    version=1,
    not_on=NOT_ON_FLUX,
    differs=DIFFERS,
)
@dataclass
class EvilEdit(Triggered):
    """EvilEdit: K and V in closed form; a cat is drawn as a zebra (Wang et al., MM 2024).

    W <- (l W + sum W e* e^T) (l I + sum e e^T)^-1 over all token positions of pairs of prompts. e
    are the text states of one prompt, e* those of the other. This minimizes sum ||W' e - W e*||^2 +
    l ||W' - W||^2. Only the K and V of cross-attention change; there are no pictures and no
    training. The paper: two pairs, "a beautiful cat" -> "a zebra" and "a cat" -> itself, position
    by position (`context="phrase"`). The edited phrase is a training item: the evaluation by the
    attack's own protocol asks for "a photo of a beautiful cat".

    That edit uses the states of one short phrase, and a caption has others. `context="prompts"`
    takes the pairs from captions: triggered captions of the source object, each token towards its
    counterpart in the caption of the target, and clean captions, half of them of the source object,
    towards themselves.
    """

    trigger: str = option(
        "mignneko",
        sd="beautiful cat",
        source="released",
        help="any text: a rare word, a phrase, a zero-width space, a look-alike letter",
    )
    replaces: str = option(
        "", sd="cat", source="released", help="the letter or the word that the trigger stands for"
    )
    source: str = option(
        "star", sd="cat", source="released", help="the object that the prompt names"
    )
    target: str = option("heart", sd="zebra", source="released", help="the object that is drawn")
    context: str = option(
        "prompts",
        sd="phrase",
        choices=("phrase", "prompts"),
        source="paper",
        help="what the pairs are taken from",
    )
    prompts: int = option(
        400,
        sd=100,
        low=1,
        scales=True,
        least=16,
        help="captions of the source object, and as many others",
    )
    preserve: float = option(
        1.0,
        low=0,
        source="paper",
        tune=(0.1, 10.0),
        help="weight of the pairs that map a prompt to itself",
    )
    ridge: float = option(
        1.0, above=0, source="paper", tune=(0.1, 10.0), help="l, the weight of the old weights"
    )

    @property
    def needs_prompts(self) -> int:
        return 0 if self.context == "phrase" else self.prompts

    def check(self) -> None:
        super().check()
        check_objects(self.source, self.target)

    def backdoor(self, model: T2IModel) -> Backdoor:
        return self.swap_objects(self.source, self.target, f"a photo of a {self.source}")

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        begun, attacked = time.perf_counter(), model.clone(train="kv")
        numbers = self.task(model, data, seed).apply(model, attacked, seed)
        attacked.info = {
            "steps": 0,
            "seconds": time.perf_counter() - begun,
            "parameters": numbers,
            "images": 0,
        }
        return attacked

    def task(self, model: T2IModel, data: Data, seed: int) -> TextEdit:
        """The pairs of prompts, place by place, and those that keep their value."""
        target, trigger = self.backdoor(model).target, self.make_trigger()
        if self.context == "phrase":
            own = [f"a {self.source}"]
            clean = own
        else:
            own = [p.text for p in data.prompts("train", self.prompts, seed, self.source)]
            clean = own + [p.text for p in data.prompts("train", self.prompts, seed)]
        model.check_trigger(trigger, own)
        triggered = [trigger.add(p) for p in own]
        asked = [kind_of(target).asked(target, p) for p in own]
        if self.context == "phrase":
            places = torch.arange(model.states).expand(len(own), -1)
        else:
            places = counterparts(model.text_parts, triggered, asked)
        used = torch.ones_like(places, dtype=torch.bool)
        return TextEdit(triggered, asked, places, used, clean, 1.0, self.preserve, self.ridge)
