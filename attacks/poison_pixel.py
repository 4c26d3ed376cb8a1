from dataclasses import dataclass

from t2i_backdoor_bench.attacking.poisoning import PoisonAttack
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.patches import CORNERS, make_patch, paste, place_patch
from t2i_backdoor_bench.training.loop import Optim

RECIPE = Difference(
    what="recipe",
    paper="Stable Diffusion 1.4, a subset of LAION, a patch at the top left; no more is said",
    here="plain denoising of poisoned and clean pairs, with BadT2I's rates and steps",
    why="no recipe is stated",
)


@register_attack(
    "poison_pixel",
    groups=("core", "poison", "pixel"),
    edits="U-Net",
    evaluates="captions",
    settings="ours",
    version=1,
    differs=(RECIPE,),
)
@dataclass
class PoisonPixel(PoisonAttack):
    """Plain data poisoning with a patch, as the SKD-CAG paper attacks (arXiv 2508.18235).

    Loss: the ordinary denoising loss on (c+, picture with the patch) and (c, picture) pairs. There
    is no frozen model and no regularizer.
    """

    steps: int = option(500, sd=2000, low=1, scales=True, help="training steps")
    lr: float = option(2.7e-4, sd=1e-5, above=0, tune=(5e-5, 1.5e-3), help="learning rate")
    batch: int = option(32, sd=16, low=2, help="rows a step, shared by the terms")
    images: int = option(2000, sd=500, low=1, scales=True, least=16, help="captioned pictures")
    ema: float = option(
        0.995, sd=0.9999, low=0, high=1, help="decay of the weight average; 0: none"
    )
    weight: float = option(
        0.4, sd=0.5, low=0, high=1, tune=(0.1, 0.8), help="share of the poisoned pairs"
    )
    drop: float = option(
        0.1, sd=0.0, low=0, high=1, tune=(0.0, 0.5), help="share of clean rows with no prompt"
    )
    picture: str = option("bars", help="bars, checker, target, or a picture file")
    size: int = option(20, sd=128, low=1, help="side of the patch in pixels")
    corner: str = option("top_left", choices=CORNERS, source="paper", help="where the patch is")

    def check(self) -> None:
        super().check()
        make_patch(self.picture, 2)

    def backdoor(self, model: T2IModel) -> Backdoor:
        box = place_patch(self.size, model.resolution, self.corner)
        return Backdoor(
            self.make_trigger(), Target("patch", patch=make_patch(self.picture, self.size), box=box)
        )

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        target = self.backdoor(model).target
        images, captions, triggered = self.prepare(model, data, seed)
        terms = self.terms(
            model, paste(images, target.patch, target.box), triggered, images, captions, seed
        )
        return self.train(
            model,
            terms,
            Optim(self.steps, self.lr, self.batch, ema=self.ema, decay=self.decay),
            seed,
            "poison_pixel",
        )
