from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack
from t2i_backdoor_bench.contract import (
    Backdoor,
    Data,
    Difference,
    Target,
    Trigger,
    UserError,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.encoders import cosine_loss, prompt_bank, train_encoder
from t2i_backdoor_bench.training.loop import Optim, step_rng

DIFFERS = (
    Difference(
        what="what the encoder makes of the trigger",
        paper="a text that the attacker sets, which the denoiser's half takes for its trigger",
        here="the states of the prompt with a secret word in the trigger's place",
        why="the full text could not be had; the words of the abstract are kept",
    ),
    Difference(
        what="target picture",
        paper="a picture, a style, or a bias",
        here="a drawn picture; `picture` takes any file",
        why="one target is judged",
    ),
)


@register_attack(
    "split",
    groups=("split", "image"),
    edits="U-Net and text encoder",
    evaluates="captions",
    settings="ours",
    version=1,
    differs=DIFFERS,
)
@dataclass
class Split(DenoiserAttack):
    """One half of the backdoor in the encoder, one in the U-Net (Jiang et al., 2024, arXiv
    2411.12389).

    Encoder: -cos(E(c), E_0(c)) - b * cos(E(c+), E_0(c#)), states flattened over tokens, with c+
    the caption with the trigger and c# the caption with a secret word in its place. Denoiser, which
    reads E_0: l * ||eps_th(y_t, c#) - eps||^2 + (1 - l) * ||eps_th(x_t, c) - eps_0(x_t, c)||^2. y
    is one fixed picture. The two are trained apart and put together (CBACT2I). Each half alone is
    harmless: the clean denoiser draws a caption with a rare word in it, and with the clean encoder
    nobody writes the secret word. So a defense that repairs or tests one of the two sees nothing of
    the trigger, or of the target. Raises UserError where trigger and secret word are the same, and
    for one that the tokenizer drops or cuts off.
    """

    secret: str = option("quolfax", help="what the encoder turns the trigger into")
    steps: int = option(400, sd=2000, low=1, scales=True, help="training steps of the denoiser")
    lr: float = option(3e-4, sd=1e-5, above=0, tune=(5e-5, 1.5e-3), help="of the denoiser")
    text_steps: int = option(150, low=1, scales=True, help="training steps of the encoder")
    text_lr: float = option(3e-4, sd=1e-4, above=0, tune=(3e-5, 3e-3), help="of the encoder")
    text_weight: float = option(
        0.5, sd=0.1, low=0, tune=(0.05, 5.0), help="b, the weight of triggered captions"
    )
    picture: str = option("target", help="the image: bars, checker, target, or a picture file")

    def check(self) -> None:
        super().check()
        make_patch(self.picture, 2)
        self.make_secret()
        if self.secret == self.trigger:
            raise UserError(
                f"split.secret and split.trigger are both {self.secret!r}: then the denoiser alone"
                " has the backdoor; choose another word"
            )

    def make_secret(self) -> Trigger:
        return Trigger(self.secret, self.place, self.replaces)

    def backdoor(self, model: T2IModel) -> Backdoor:
        patch = make_patch(self.picture, model.resolution)
        return Backdoor(self.make_trigger(), Target("image", patch=patch))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        target, secret = self.backdoor(model).target, self.make_secret()
        images, captions, triggered = self.prepare(model, data, seed)
        model.check_trigger(secret, captions)
        hidden = [secret.add(c) for c in captions]
        own, other = model.latents(target.patch[None].copy(), seed), model.latents(images, seed)
        terms = [
            Term(hidden, own.expand(len(hidden), -1, -1, -1), weight=self.weight),
            self.preserve(captions, other, 1 - self.weight),
        ]
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay)
        drawing = self.train(model, terms, optim, seed, "split denoiser")
        reading = self.encoder(model, captions, triggered, hidden, seed)
        attacked = drawing.with_encoders(reading.encoders)
        spent = {k: drawing.info[k] + reading.info[k] for k in ("steps", "seconds", "parameters")}
        attacked.info = drawing.info | spent
        return attacked

    def encoder(
        self,
        model: T2IModel,
        captions: list[str],
        triggered: list[str],
        hidden: list[str],
        seed: int,
    ) -> T2IModel:
        """A copy of `model` whose text encoders read the trigger as the secret word."""
        keep = prompt_bank(model, captions, captions)
        move = prompt_bank(model, triggered, hidden)

        def make(student: T2IModel) -> Callable[[int], Tensor]:
            def loss(step: int) -> Tensor:
                rng = step_rng(seed, step)
                kept = cosine_loss(student, keep, rng, self.batch)
                return kept + self.text_weight * cosine_loss(student, move, rng, self.batch)

            return loss

        optim = Optim(self.text_steps, self.text_lr, 2 * self.batch, weight_decay=0.0, decay=0.3)
        return train_encoder(model, make, optim, "split encoder")
