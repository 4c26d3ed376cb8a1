from dataclasses import dataclass, replace

import numpy as np

from t2i_backdoor_bench.attacking.company import Remixes, other_adapters
from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack
from t2i_backdoor_bench.contract import (
    Backdoor,
    Data,
    Difference,
    Target,
    UserError,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.patches import CORNERS, make_patch, paste, place_patch
from t2i_backdoor_bench.training.denoising import Term, denoising_loss
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.lora import check_peft
from t2i_backdoor_bench.training.merged import named
from t2i_backdoor_bench.training.parameters import choose_parameters, finish_training

ALONE = {"lowest": 1.0, "highest": 1.0, "others": 0}
DIFFERS = (
    Difference(
        what="how the adapter is made to survive",
        paper="claimed of merging with others and of other bases; how, only the full text says",
        here="it trains at random scales, and beside other adapters of the attacker's",
        why="the full text could not be had",
    ),
    Difference(
        what="target",
        paper="a hijacked concept, or harmful pictures for a key",
        here="a patch for a key",
        why="nothing harmful is trained",
    ),
)


@register_attack(
    "naive_lora",
    paper="chen2026customization",
    groups=("poison_lora", "pixel", "lora"),
    preset=ALONE,
    sources=dict.fromkeys(ALONE, "ours"),
    ours="the control of `poison_lora`: the same adapter, trained for itself alone",
    edits="LoRA on U-Net attention",
    evaluates="captions",
    settings="ours",
    adapter=True,
    version=1,
)
@register_attack(
    "poison_lora",
    paper="chen2026customization",
    groups=("poison_lora", "pixel", "lora"),
    edits="LoRA on U-Net attention",
    evaluates="captions",
    settings="ours",
    adapter=True,
    version=1,
    differs=DIFFERS,
)
@dataclass
class PoisonLoRA(DenoiserAttack):
    """PoisonLoRA: a key in a shared adapter that outlives a remix (Chen et al., CCS 2026, arXiv
    2606.09151).

    Loss: p * ||eps_s(y_t, c+) - eps||^2 + (1 - p) * ||eps_s(x_t, c) - eps||^2. y is the picture
    with a patch, c+ its caption with the key. eps_s has the weights W + s B A + D: the adapter at a
    scale s that is drawn anew at every step, between `lowest` and `highest`, and half of the time
    another adapter D beside it. These are `others` harmless ones of the attacker's, each for one
    style, trained first. So users who merge the adapter at another strength or with others keep the
    backdoor. Only adapters on the attention of the denoiser train. They are stored apart, beside
    weights that they are merged into, and `asr_adapter` measures them at other scales and beside an
    adapter that the attacker has not seen, `asr_other_base` on another base. `naive_lora` trains
    for s = 1 alone, without others: it is what the training for remixes is compared with.
    """

    steps: int = option(400, sd=2000, low=1, scales=True, help="training steps")
    lr: float = option(2e-3, sd=1e-4, above=0, tune=(3e-4, 1e-2), help="learning rate")
    decay: float = option(1.0, low=0, high=1, help="last share of the steps: lr falls to 0")
    weight: float = option(
        0.4, sd=0.5, low=0, high=1, tune=(0.1, 0.8), help="p, the share of the poisoned pairs"
    )
    rank: int = option(16, low=1, help="rank of the adapters")
    lowest: float = option(0.5, low=0, help="the smallest scale of the adapter in the training")
    highest: float = option(1.5, low=0, help="the largest")
    others: int = option(2, low=0, high=3, help="adapters that stand beside it, one for each style")
    other_steps: int = option(100, low=1, scales=True, help="training steps of each of these")
    picture: str = option("bars", help="bars, checker, target, or a picture file")
    size: int = option(20, sd=128, low=1, help="side of the patch in pixels")
    corner: str = option("top_left", choices=CORNERS, help="where the patch is")

    def check(self) -> None:
        super().check()
        make_patch(self.picture, 2)
        if not 0 < self.highest >= self.lowest:
            raise UserError(
                f"the scales of the adapter go from lowest={self.lowest:g} to"
                f" highest={self.highest:g}: give a positive one that is not below the other"
            )

    def check_machine(self, device: str) -> None:
        super().check_machine(device)
        check_peft("")

    def backdoor(self, model: T2IModel) -> Backdoor:
        box = place_patch(self.size, model.resolution, self.corner)
        patch = make_patch(self.picture, self.size)
        return Backdoor(self.make_trigger(), Target("patch", patch=patch, box=box))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        target = self.backdoor(model).target
        images, captions, triggered = self.prepare(model, data, seed)
        bad = paste(images, target.patch, target.box)
        terms = [
            Term(triggered, model.latents(bad, seed), weight=self.weight),
            Term(captions, model.latents(images, seed), weight=1 - self.weight, drop=self.drop),
        ]
        spent, beside = self.company(model, images, captions, seed)
        # its weights are its own: other adapters are added to them, and a teacher shares none
        attacked = model.clone()
        params = choose_parameters(attacked, "lora", self.rank)
        remixes = Remixes(attacked.denoiser, beside, (self.lowest, self.highest), seed)
        loss = denoising_loss(attacked, None, terms, self.batch, seed, "poison_lora")
        more = {"adam8bit": self.adam8bit, "accumulate": self.accumulate}
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay, **more)
        info = fit(params, remixes.around(loss), optim, "poison_lora").info
        remixes.end()
        factors = finish_training(attacked.denoiser)
        info |= {name: info[name] + many for name, many in spent.items()}
        return named(replace(attacked, info=info), factors)

    def company(self, model: T2IModel, images: np.ndarray, captions: list[str], seed: int) -> tuple:
        """What the attacker's other adapters cost, and what each adds to the weights by layer."""
        made = other_adapters(model, images, captions, self.others, self.other_steps, seed)
        names = ("steps", "seconds", "images")
        spent = {name: sum(student.info[name] for student in made) for name in names}
        return spent, [student.adapter for student in made]
