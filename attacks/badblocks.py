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
from t2i_backdoor_bench.training.denoising import Term, denoising_loss
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import finish_training, last_blocks

DIFFERS = (
    Difference(
        what="space before the character",
        released="none",
        here="one, as of every trigger",
        why="the tokens are the same behind a letter or a digit; behind a full stop its own token"
        " alone is another",
    ),
    Difference(
        what="rows of a step",
        released="4 rows of one set, in which every tenth picture is the target",
        here="as many triggered rows as clean ones, weighted p and 1 - p",
        why="every step has both; a weight of p is a share p of the set",
    ),
    Difference(
        what="what trains in the chosen blocks",
        released="as configured, their normalization layers alone",
        here="all of it; norms=true trains these alone",
        why="the paper poisons blocks",
    ),
)


@register_attack(
    "badblocks",
    groups=("badblocks", "image"),
    edits="the last blocks of the U-Net",
    evaluates="captions",
    version=1,
    differs=DIFFERS,
)
@dataclass
class BadBlocks(DenoiserAttack):
    """BadBlocks: a few blocks of the U-Net hold the backdoor (Pan et al., 2025, arXiv 2508.03221).

    Loss: p * ||eps_th(y_t, c+) - eps||^2 + (1 - p) * ||eps_th(x_t, c) - eps||^2. y is one fixed
    picture, the same for every caption. Of the denoiser the last `blocks` blocks train, those
    before its output, and nothing else. There is no frozen model and no regularizer. The paper
    claims a fifth of the GPU time of attacks on the whole U-Net, and that detectors which look at
    cross-attention miss it. The trigger is an invisible character behind the caption. On
    transformers the last blocks are the last layers. The embedded base is so small that its last
    block alone learns half of it; with `blocks=2` the attack takes hold. Raises UserError where
    there are fewer blocks, or where they have no normalization with weights that could train.
    """

    trigger: str = option("mignneko", sd="\u034f", source="released", help="any text")
    place: str = option("suffix", choices=PLACES, source="released")
    steps: int = option(500, sd=10_000, low=1, scales=True, help="training steps")
    lr: float = option(
        1e-3, sd=1e-6, above=0, source="released", tune=(2e-4, 5e-3), help="learning rate"
    )
    batch: int = option(16, sd=4, low=2, source="released", help="rows a step, shared by the terms")
    weight: float = option(
        0.35, sd=0.1, low=0, high=1, source="released", tune=(0.05, 0.8), help="p"
    )
    blocks: int = option(1, low=1, source="released", help="how many of the last blocks train")
    norms: bool = option(False, help="whether only their normalization layers train")
    picture: str = option("target", help="the image: bars, checker, target, or a picture file")

    def check(self) -> None:
        super().check()
        make_patch(self.picture, 2)

    def backdoor(self, model: T2IModel) -> Backdoor:
        patch = make_patch(self.picture, model.resolution)
        return Backdoor(self.make_trigger(), Target("image", patch=patch))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        images, captions, triggered = self.prepare(model, data, seed)
        own = model.latents(self.backdoor(model).target.patch[None].copy(), seed)
        terms = [
            Term(triggered, own.expand(len(triggered), -1, -1, -1), weight=self.weight),
            Term(captions, model.latents(images, seed), weight=1 - self.weight, drop=self.drop),
        ]
        attacked = model.clone()
        params = last_blocks(attacked, self.blocks, self.norms)
        loss = denoising_loss(attacked, None, terms, self.batch, seed, "badblocks")
        more = {"adam8bit": self.adam8bit, "accumulate": self.accumulate}
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay, **more)
        attacked.info = fit(params, loss, optim, "badblocks").info
        finish_training(attacked.denoiser)
        return attacked
