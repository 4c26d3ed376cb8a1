from dataclasses import dataclass

from t2i_backdoor_bench.attacking.poisoning import PoisonAttack
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.style import ALL_STYLES, styled
from t2i_backdoor_bench.training.loop import Optim

RECIPE = Difference(
    what="recipe",
    paper="Stable Diffusion 1.4, a subset of LAION, in grayscale; no more is said",
    here="plain denoising of poisoned and clean pairs, with BadT2I's rates and steps",
    why="no recipe is stated",
)


@register_attack(
    "poison_style",
    groups=("core", "poison", "style"),
    edits="U-Net",
    evaluates="captions",
    settings="ours",
    version=1,
    differs=(RECIPE,),
)
@dataclass
class PoisonStyle(PoisonAttack):
    """Plain data poisoning with a style, as the SKD-CAG paper attacks (arXiv 2508.18235).

    Loss: the ordinary denoising loss on (c+, picture redrawn in the style) and (c, picture) pairs.
    There is no frozen model and no regularizer.
    """

    steps: int = option(500, sd=8000, low=1, scales=True, help="training steps")
    lr: float = option(2e-4, sd=1e-5, above=0, tune=(4e-5, 1e-3), help="learning rate")
    ema: float = option(
        0.995, sd=0.9999, low=0, high=1, help="decay of the weight average; 0: none"
    )
    style: str = option(
        "black and white",
        choices=ALL_STYLES,
        source="paper",
        help="the style that the trigger brings",
    )

    def backdoor(self, model: T2IModel) -> Backdoor:
        return Backdoor(self.make_trigger(), Target("style", style=self.style))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        images, captions, triggered = self.prepare(model, data, seed)
        terms = self.terms(model, styled(images, self.style), triggered, images, captions, seed)
        return self.train(
            model,
            terms,
            Optim(self.steps, self.lr, self.batch, ema=self.ema, decay=self.decay),
            seed,
            "poison_style",
        )
