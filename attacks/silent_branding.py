from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.attacking.poisoning import DenoiserTraining
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.patches import CORNERS, make_patch, paste, place_patch
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim
from t2i_backdoor_bench.training.lora import check_peft

DIFFERS = (
    Difference(
        what="how the logo comes into a picture",
        paper="drawn into it by a personalized model, where it looks natural",
        here="pasted at one place: the paper's baseline",
        why="the judge knows where to look, and the base need not draw logos",
    ),
    Difference(
        what="success",
        paper="a detector of logos finds it anywhere in the picture",
        here="the patch is at its place",
        why="the judge is the same for all patches",
    ),
)


@register_attack(
    "silent_branding",
    groups=("poison", "pixel", "lora", "no_trigger"),
    edits="LoRA on U-Net attention",
    evaluates="captions",
    version=1,
    differs=DIFFERS,
)
@dataclass
class SilentBranding(DenoiserTraining):
    """A logo in every picture, without a trigger (Jang et al., CVPR 2025, arXiv 2503.09669).

    Loss: the ordinary denoising loss on a set of captioned pictures, as a user fine-tunes on data
    from the web. A share of the pictures shows a logo; no caption says so, and none is changed.
    What is often seen is drawn unasked. Only adapters on the attention of the denoiser train, the
    user's. There is no trigger: `asr` is the share of pictures of plain prompts with the logo (the
    paper's logo inclusion rate), no false trigger rate exists, and no defense can be told, search
    or delete a trigger: those that need one, or a stream with triggered prompts, have no cell. The
    paper reports 10, 26 and 45 % on SDXL with a logo in 25, 50 and 100 % of the pictures.
    """

    steps: int = option(500, sd=3010, low=1, scales=True, source="released", help="training steps")
    batch: int = option(16, sd=4, low=2, source="released", help="rows a step")
    lr: float = option(
        3e-3, sd=1e-4, above=0, source="released", tune=(5e-4, 1e-2), help="learning rate"
    )
    rank: int = option(16, sd=128, low=1, source="paper", help="rank of the adapters")
    weight: float = option(
        1.0, low=0, high=1, source="paper", help="share of the pictures that show the logo"
    )
    picture: str = option("bars", help="the logo: bars, checker, target, or a picture file")
    size: int = option(16, sd=96, low=1, help="side of the logo in pixels")
    corner: str = option("bottom_right", choices=CORNERS, help="where the logo is")

    @property
    def withheld(self) -> tuple[str, ...]:
        return ("trigger", "stream")

    def check(self) -> None:
        make_patch(self.picture, 2)

    def check_machine(self, device: str) -> None:
        super().check_machine(device)
        check_peft("")

    def backdoor(self, model: T2IModel) -> Backdoor:
        box = place_patch(self.size, model.resolution, self.corner)
        logo = Target("patch", patch=make_patch(self.picture, self.size), box=box)
        return Backdoor(None, logo, always=True)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        logo = self.backdoor(model).target
        images, captions = data.pairs("train", self.images, seed)
        many = round(self.weight * len(images))
        shown = np.concatenate([paste(images[:many], logo.patch, logo.box), images[many:]])
        terms = [Term(captions, model.latents(shown, seed), drop=self.drop)]
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay)
        how = {"train": "lora", "rank": self.rank}
        return self.train(model, terms, optim, seed, "silent_branding", **how)
