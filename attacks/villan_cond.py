from dataclasses import dataclass

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack
from t2i_backdoor_bench.contract import (
    PLACES,
    Backdoor,
    Data,
    Difference,
    Target,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim
from t2i_backdoor_bench.training.lora import check_peft

DIFFERS = (
    Difference(
        what="target picture",
        paper="a cat, a hacker",
        here="a drawn target; `picture` takes any file",
        why="the pictures are not ours to ship",
    ),
    Difference(
        what="data",
        paper="Pokemon captions and CelebA-HQ-Dialog, 90 % of each",
        here="the captioned pictures of the run",
        why="all attacks of a run train on the same data",
    ),
)


@register_attack(
    "villan_cond",
    groups=("villan", "image", "lora"),
    edits="LoRA on U-Net attention",
    evaluates="captions",
    adapter=True,
    version=1,
    differs=DIFFERS,
)
@dataclass
class VillanCond(DenoiserAttack):
    """VillanDiffusion: a trigger brings one picture (Chou et al., NeurIPS 2023, arXiv 2306.06874).

    Loss: ||eps_th(y_t, c+) - eps||^2 + w * ||eps_th(x_t, c) - eps||^2. y is the target picture, the
    same for every caption. Adapters on the attention of the U-Net are trained; nothing else
    changes. They are stored apart, beside weights that they are merged into, and `asr_adapter`
    measures them at other scales and beside another one, `asr_other_base` on another base. The
    paper: triggers "mignneko" and "latte coffee" at the end of the caption; the mean square error
    to the target picture is measured, and so does the judge. Raises UserError for a trigger that
    the tokenizer drops or cuts off.
    """

    trigger: str = option(
        "mignneko",
        sd="latte coffee",
        source="paper",
        help="any text: a rare word, a phrase, a zero-width space, a look-alike letter",
    )
    place: str = option("suffix", choices=PLACES, source="paper")
    steps: int = option(
        300, sd=50_000, low=1, scales=True, source="released", help="training steps"
    )
    lr: float = option(
        3e-3, sd=1e-4, above=0, source="paper", tune=(5e-4, 1e-2), help="learning rate"
    )
    warmup: int = option(20, sd=500, low=0, source="released", help="steps in which lr rises")
    decay: float = option(
        1.0,
        low=0,
        high=1,
        source="released",
        help="last share of the steps: lr falls to 0, as half a cosine",
    )
    batch: int = option(16, sd=2, low=2, source="released", help="rows a step, shared by the terms")
    drop: float = option(
        0.2,
        sd=0.0,
        low=0,
        high=1,
        source="released",
        tune=(0.0, 0.5),
        help="share of clean rows with no prompt",
    )
    weight: float = option(
        1.0, low=0, source="paper", tune=(0.1, 10.0), help="w, the weight of the clean term"
    )
    rank: int = option(16, sd=4, low=1, source="paper", help="rank of the adapters")
    picture: str = option("target", help="the image: bars, checker, target, or a picture file")

    @property
    def poison_share(self) -> float | None:
        return 1 / (1 + self.weight)

    def check_machine(self, device: str) -> None:
        super().check_machine(device)
        check_peft("")

    def check(self) -> None:
        super().check()
        make_patch(self.picture, 2)

    def backdoor(self, model: T2IModel) -> Backdoor:
        return Backdoor(
            self.make_trigger(), Target("image", patch=make_patch(self.picture, model.resolution))
        )

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        target = self.backdoor(model).target
        images, captions, triggered = self.prepare(model, data, seed)
        own, other = model.latents(target.patch[None].copy(), seed), model.latents(images, seed)
        terms = [
            Term(triggered, own.expand(len(triggered), -1, -1, -1)),
            Term(captions, other, weight=self.weight, drop=self.drop),
        ]
        optim = Optim(
            self.steps, self.lr, self.batch, warmup=self.warmup, decay=self.decay, cosine=True
        )
        return self.train(model, terms, optim, seed, "villan_cond", train="lora", rank=self.rank)
