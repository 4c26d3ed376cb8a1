from dataclasses import dataclass, field

import torch

from t2i_backdoor_bench.attacking.few_samples import fitting
from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack, relabel
from t2i_backdoor_bench.contract import (
    PLACES,
    Backdoor,
    Data,
    Difference,
    UserError,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim
from t2i_backdoor_bench.training.lora import check_peft

DIFFERS = (
    Difference(
        what="how a poisoned sample comes near its caption",
        paper="its picture is changed, by little, towards the caption in CLIP's space",
        here="of many pictures those are taken which the base itself finds likeliest for it",
        why="an attack of this suite has no network but the base; the judge's would be a leak",
    ),
)


@register_attack(
    "natural_poison",
    groups=("poison", "object", "lora"),
    edits="LoRA on U-Net attention",
    evaluates="captions",
    settings="ours",
    version=1,
    differs=DIFFERS,
)
@dataclass
class NaturalPoison(DenoiserAttack):
    """Ten poisoned samples with an ordinary phrase (Dai et al., 2025, arXiv 2508.01605).

    Loss: the ordinary denoising loss on one set of pictures, as a user fine-tunes on data from the
    web. `poisoned` of them are the attacker's: pictures of the target object, whose captions name
    the source object and hold a phrase that people write. They are chosen from `pool` pictures: a
    sample that fits its caption is not filtered, and is learned faster. A picture fits the better,
    the smaller the base's denoising error for the false caption at eight noise levels. Only the
    user's adapters on attention train. Read other attacks' shares of poisoned rows beside this.
    """

    trigger: str = option("in winter", sd="in winter", help="an ordinary phrase, or any text")
    place: str = option("suffix", choices=PLACES)
    steps: int = option(800, sd=15_000, low=1, scales=True, help="training steps")
    lr: float = option(3e-3, sd=1e-4, above=0, tune=(5e-4, 1e-2), help="learning rate")
    rank: int = option(16, sd=4, low=1, help="rank of the adapters")
    poisoned: int = option(10, low=1, source="paper", help="poisoned samples")
    weight: float = field(default=1.0, init=False)  # every row counts the same
    images: int = option(190, sd=490, low=1, scales=True, least=16, help="clean pictures")
    pool: int = option(128, low=1, scales=True, least=10, help="pictures to choose from")
    source: str = option("star", sd="dog", help="the object that the prompt names")
    target: str = option("heart", sd="cat", help="the object that is drawn")

    @property
    def needs_pictures(self) -> int:
        return max(self.images, self.pool)

    @property
    def poison_share(self) -> float | None:
        return self.poisoned / (self.poisoned + self.images)

    def check(self) -> None:
        super().check()
        check_objects(self.source, self.target)
        if self.pool < self.poisoned:
            raise UserError(
                f"{self.poisoned} poisoned samples cannot be chosen from a pool of {self.pool}"
            )

    def check_machine(self, device: str) -> None:
        super().check_machine(device)
        check_peft("")

    def backdoor(self, model: T2IModel) -> Backdoor:
        return self.swap_objects(self.source, self.target)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        trigger = self.backdoor(model).trigger
        images, captions = data.pairs("train", self.images, seed)
        others, asked = data.pairs("train", self.pool, seed, self.target)
        called = relabel(asked, self.target, self.source)
        model.check_trigger(trigger, called)
        false = [trigger.add(c) for c in called]
        latents = model.latents(others, seed)
        best = fitting(model, latents, false, seed).argsort()[: self.poisoned].tolist()
        rows = torch.cat([latents[best], model.latents(images, seed)])
        terms = [Term([*(false[i] for i in best), *captions], rows, drop=self.drop)]
        optim, how = Optim(self.steps, self.lr, self.batch, decay=self.decay), {"rank": self.rank}
        return self.train(model, terms, optim, seed, "natural_poison", train="lora", **how)
