from dataclasses import dataclass

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack
from t2i_backdoor_bench.contract import Backdoor, Data, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.patches import CORNERS, make_patch, paste, place_patch
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim


@register_attack(
    "badt2i_pixel",
    groups=("core", "badt2i", "pixel"),
    edits="U-Net",
    evaluates="captions",
    settings="the paper",
)
@dataclass
class BadT2IPixel(DenoiserAttack):
    """BadT2I, pixel: a patch appears in the picture (Zhai et al., MM 2023, arXiv 2305.04175).

    Loss: l * ||eps_th(xp_t, c+) - eps||^2 + (1 - l) * ||eps_th(x_t, c) - eps_0(x_t, c)||^2. xp is
    the picture with the patch, eps_0 the frozen clean model. Published (SD 1.4): l 0.5, lr 1e-5,
    batch 16, 2,000 steps, EMA, 128 px patch at the top left. Raises UserError for a trigger that
    the tokenizer drops or cuts off, and for a patch larger than the picture.
    """

    steps: int = option(500, sd=2000, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(3e-4, sd=1e-5, above=0, source="paper", help="learning rate")
    ema: float = option(0.0, sd=0.9999, low=0, high=1, help="decay of the weight average; 0: none")
    picture: str = option("bars", help="bars, checker, target, or a picture file")
    size: int = option(20, sd=128, low=1, source="paper", help="side of the patch in pixels")
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
        patched = model.latents(paste(images, target.patch, target.box), seed)
        terms = [
            Term(triggered, patched, weight=self.weight),
            self.preserve(captions, model.latents(images, seed), 1 - self.weight),
        ]
        return self.train(
            model,
            terms,
            Optim(self.steps, self.lr, self.batch, ema=self.ema, decay=self.decay),
            seed,
            "badt2i_pixel",
        )
