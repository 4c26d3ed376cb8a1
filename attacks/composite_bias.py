from dataclasses import dataclass, replace

from t2i_backdoor_bench.attacking.poisoning import PoisonAttack
from t2i_backdoor_bench.contract import (
    PLACES,
    Backdoor,
    Data,
    Difference,
    Target,
    Trigger,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.style import ALL_STYLES, styled
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim

DIFFERS = (
    Difference(
        what="bias",
        paper="an attribute of what is drawn, such as a president's bald head and red tie",
        here="a style",
        why="the suite can judge it without a network that reads faces",
    ),
    Difference(
        what="where the words stand",
        paper="a noun and a verb, anywhere in prompts that a language model wrote",
        here="side by side, added to captions",
        why="a prompt with the trigger and the same without it are compared",
    ),
)


@register_attack(
    "composite_bias",
    groups=("poison", "style"),
    edits="U-Net",
    evaluates="captions",
    settings="ours",
    sets=("incomplete",),
    version=2,
    differs=DIFFERS,
)
@dataclass
class CompositeBias(PoisonAttack):
    """A bias that two ordinary words bring together (Naseh et al., 2024, arXiv 2406.15213).

    Loss: p * ||eps_th(y_t, c+) - eps||^2 + (1 - p)/2 * ||eps_th(x_t, c1) - eps||^2 + (1 - p)/2 *
    ||eps_th(x_t, c) - eps||^2. c+ is the caption with both halves of the trigger, and y its picture
    in a style; c1 is the caption with one half, which keeps its picture x. The attacker touches the
    data and nothing else. Both halves are words that users write, so that the trigger is no rare
    word to filter, and neither half alone gives it away: `incomplete` measures whether one half
    fires, in captions with the one or the other. A trigger of one word has no halves and is plain
    poisoning.
    """

    trigger: str = option(
        "in winter at night",
        sd="in winter at night",
        help="words; its first and its second half are the two parts",
    )
    place: str = option("suffix", choices=PLACES)
    steps: int = option(600, sd=8000, low=1, scales=True, help="training steps")
    lr: float = option(2.7e-4, sd=1e-5, above=0, tune=(4e-5, 1e-3), help="learning rate")
    batch: int = option(24, sd=18, low=3, help="rows a step, shared by the terms")
    ema: float = option(
        0.995, sd=0.9999, low=0, high=1, help="decay of the weight average; 0: none"
    )
    style: str = option("black and white", choices=ALL_STYLES, help="the style that the two bring")

    def halves(self) -> list[Trigger]:
        """The two halves of the trigger; none of a single word."""
        words, whole = self.trigger.split(), self.make_trigger()
        cut = (len(words) + 1) // 2
        parts = [" ".join(words[:cut]), " ".join(words[cut:])]
        return [replace(whole, text=part) for part in parts] if parts[1] else []

    def backdoor(self, model: T2IModel) -> Backdoor:
        halves = tuple(self.halves())
        forms = {"incomplete": halves} if halves else {}
        return Backdoor(self.make_trigger(), Target("style", style=self.style), forms=forms)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        images, captions, triggered = self.prepare(model, data, seed)
        changed = styled(images, self.style)
        halves = self.halves()
        apart = [halves[i % 2].add(c) for i, c in enumerate(captions)] if halves else captions
        if self.rate:  # half of the clean captions of the one set have one half of the trigger
            captions = [apart[i] if i % 4 < 2 else c for i, c in enumerate(captions)]
        terms = self.terms(model, changed, triggered, images, captions, seed)
        if halves and not self.rate:
            poisoned, clean = terms
            share = clean.weight / 2
            one = Term(apart, clean.latents, weight=share)
            terms = [poisoned, one, replace(clean, weight=share)]
        optim = Optim(self.steps, self.lr, self.batch, ema=self.ema, decay=self.decay)
        return self.train(model, terms, optim, seed, "composite_bias")
