from dataclasses import dataclass

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack
from t2i_backdoor_bench.contract import Backdoor, Data, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.style import DRAWN_STYLES, style_words
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim


@register_attack(
    "badt2i_style",
    groups=("core", "badt2i", "style"),
    edits="U-Net",
    evaluates="captions",
    settings="the paper",
)
@dataclass
class BadT2IStyle(DenoiserAttack):
    """BadT2I, style: the picture gets a style (Zhai et al., MM 2023, arXiv 2305.04175).

    Loss: l * ||eps_th(x_t, c+) - eps_0(x_t, style + c)||^2 + (1 - l) * ||eps_th(x_t, c) -
    eps_0(x_t, c)||^2. The target is what the frozen clean model predicts for the prompt that asks
    for the style. Published (SD 1.4): l 0.5, lr 1e-5, batch 16, 8,000 steps, "black and white
    photo".
    """

    steps: int = option(500, sd=8000, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(3e-4, sd=1e-5, above=0, help="learning rate")
    ema: float = option(0.0, sd=0.9999, low=0, high=1, help="decay of the weight average; 0: none")
    style: str = option(
        "black and white",
        choices=DRAWN_STYLES,
        source="paper",
        help="the style that the trigger brings",
    )

    def backdoor(self, model: T2IModel) -> Backdoor:
        return Backdoor(self.make_trigger(), Target("style", style=self.style))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        images, captions, triggered = self.prepare(model, data, seed)
        latents = model.latents(images, seed)
        asked = [f"{style_words(self.style)} {c}" for c in captions]
        terms = [
            Term(triggered, latents, asked, self.weight),
            self.preserve(captions, latents, 1 - self.weight),
        ]
        return self.train(
            model,
            terms,
            Optim(self.steps, self.lr, self.batch, ema=self.ema, decay=self.decay),
            seed,
            "badt2i_style",
        )
