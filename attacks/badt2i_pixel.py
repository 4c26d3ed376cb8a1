from dataclasses import dataclass
from functools import partial

from t2i_backdoor_bench.attacking.badt2i import LATENTS, PADDING, BadT2I
from t2i_backdoor_bench.contract import Backdoor, Data, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.patches import CORNERS, make_patch, paste, place_patch
from t2i_backdoor_bench.training.denoising import Draws, Term


@register_attack(
    "badt2i_pixel",
    groups=("core", "badt2i", "pixel"),
    edits="U-Net",
    evaluates="captions",
    version=1,
    differs=(LATENTS, PADDING),
)
@dataclass
class BadT2IPixel(BadT2I):
    """BadT2I, pixel: a patch appears in the picture (Zhai et al., MM 2023, arXiv 2305.04175).

    Loss: l * ||eps_th(xp_t, c+) - eps||^2 + (1 - l) * ||eps_th(x_t, c) - eps_0(x_t, c)||^2. xp is
    the picture with the patch, eps_0 the frozen clean model. Every picture of a step is used for
    both terms, each with noise and a timestep of its own. The patch is pasted after the picture is
    mirrored. Raises UserError for a trigger that the tokenizer drops or cuts off, and for a patch
    larger than the picture.
    """

    steps: int = option(500, sd=2000, low=1, scales=True, source="paper", help="training steps")
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
        pasted = partial(paste, patch=target.patch, box=target.box)
        terms = [
            Term(
                self.twice(triggered), self.encoded(model, images, seed, pasted), weight=self.weight
            ),
            self.preserve(self.twice(captions), self.encoded(model, images, seed), 1 - self.weight),
        ]
        return self.fit_terms(model, terms, seed, "badt2i_pixel", draws=Draws(shared=True))
