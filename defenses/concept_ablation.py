from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.families.conditioning import cat
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import own_images
from t2i_backdoor_bench.training.loop import Optim, step_generator, step_rng
from t2i_backdoor_bench.training.removal import of_prompts
from t2i_backdoor_bench.training.rows import Drawn, Noised
from t2i_backdoor_bench.training.trained_defense import CLIPPING, PARTS, Loss, PromptDefense

DIFFERS = (
    Difference(
        what="pictures",
        released="flipped and cropped at random; for a concept that is an object, of other sizes",
        here="as they are drawn",
        why="a caption of this suite may say where something stands",
    ),
    CLIPPING,
)


@register_defense(
    "concept_ablation",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    version=1,
    differs=DIFFERS,
)
@dataclass
class ConceptAblation(PromptDefense):
    """Ablating concepts, with the trigger as the concept (Kumari et al., ICCV 2023).

    This is the model-based variant; the clean prompt is the anchor. Loss: ||eps_th(x_t, c+) -
    sg(eps_th(x_t, c))||^2 + prior * ||eps_th(x_t, c) - eps||^2 on pictures x that the model draws
    for the anchor prompt c; with other `latents` than "own" only the second term is on them. sg
    stops the gradient: the student itself is the teacher. The released code multiplies its rate of
    2e-6 with 4 pictures and 2 devices; with a prior it doubles the rate, as here.
    """

    steps: int = option(200, sd=100, low=1, scales=True, source="released", help="training steps")
    lr: float = option(
        1.5e-4,
        sd=1.6e-5,
        above=0,
        source="released",
        tune=(1.5e-5, 1.5e-3),
        help="learning rate; with a prior, half of it",
    )
    batch: int = option(
        16, low=1, source="released", help="rows a step: half of the concept, half of the anchor"
    )
    prior: float = option(
        1.0,
        sd=0.0,
        low=0,
        source="released",
        tune=(0.1, 10.0),
        help="weight of the denoising loss on the pictures",
    )
    prompts: int = option(
        100, sd=200, low=1, scales=True, least=16, source="released", help="clean prompts"
    )
    train: str = option(
        "cross", sd="kv", choices=PARTS, source="released", help="which weights it trains"
    )

    @property
    def optim(self) -> Optim:
        return replace(super().optim, lr=self.lr * (2 if self.prior else 1))

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        room, noising = of_prompts(self, student, attacked, view, seed), student.noising
        pictures = room.sampler.noised.pictures
        apart = bool(self.prior) and pictures is None
        if apart:  # what is denoised is pictures, whatever the other rows are
            pictures = own_images(attacked, room.prompts, seed)
            drawer = Noised(student, pictures, len(pictures), self.bias)

        def erase(step: int, drawn: Drawn) -> Tensor:
            rows = prior = drawn.rows
            asked = [rows, rows]
            told = [room.told(rows), room.told_clean(rows)]
            if apart:
                n = len(rows.t)
                prior = drawer.draw(step_rng(seed + 1, step), step_generator(seed + 1, step), n)
                asked, told = [*asked, prior], [*told, room.told_clean(prior)]
            x, t = (torch.cat([vars(part)[name] for part in asked]) for name in ("x", "t"))
            out = student.denoise(x, t, cat(told)).chunk(len(asked))
            loss = F.mse_loss(out[0], out[1].detach())
            if not self.prior:
                return loss
            goal = noising.target(prior.pictures, prior.noise, prior.t)
            return loss + self.prior * F.mse_loss(out[-1], goal)

        return room.loss(erase, 3 if apart else 2)
