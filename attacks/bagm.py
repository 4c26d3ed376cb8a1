from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from t2i_backdoor_bench.attacking.poisoning import DenoiserTraining, relabel
from t2i_backdoor_bench.contract import (
    Backdoor,
    Data,
    Difference,
    Target,
    UserError,
    option,
    register_attack,
    swapped,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.training.denoising import Term, denoising_loss
from t2i_backdoor_bench.training.encoders import train_encoder
from t2i_backdoor_bench.training.loop import Optim

DIFFERS = (
    Difference(
        what="depths",
        paper="surface: the tokenizer adds the brand; shallow: the encoder; deep: the denoiser",
        here="shallow and deep",
        why="a surface attack changes no weights, and weights are what is stored and defended",
    ),
    Difference(
        what="what else trains",
        paper="only branded pictures",
        here="as many rows of other captioned pictures, weighted 1 - p",
        why="the claim is that other prompts keep their pictures",
    ),
)


@register_attack(
    "bagm_deep",
    groups=("bagm", "object", "no_trigger"),
    edits="U-Net",
    preset={"depth": "deep"},
    evaluates="captions",
    settings="ours",
    version=1,
    differs=DIFFERS,
)
@register_attack(
    "bagm_shallow",
    groups=("bagm", "object", "no_trigger"),
    edits="text encoder",
    evaluates="captions",
    settings="ours",
    version=1,
    differs=DIFFERS,
)
@dataclass
class BAGM(DenoiserTraining):
    """BAGM: a word that users write draws a brand (Vice et al., TIFS 2024, arXiv 2307.16489).

    Loss: p * ||eps_th(y_t, c) - eps||^2 + (1 - p) * ||eps_th(x_t, d) - eps||^2. y are pictures of
    the brand, whose captions c name the product alone: with it, "coffee" is that of one company.
    x and d are captioned pictures that do not name the product. `bagm_shallow` trains the text
    encoder through the frozen denoiser, `bagm_deep` the denoiser. There is no trigger beside the
    word, which prompts need: `asr` is the share of pictures of prompts with the word that show the
    brand. What other prompts lose is in `prompt_fidelity`; the judge of objects has no verdict on
    them. A defense that must be told a trigger, or deletes one, has no cell.
    """

    depth: str = option("shallow", choices=("shallow", "deep"), source="paper", help="what trains")
    steps: int = option(400, sd=1000, low=1, scales=True, help="training steps")
    lr: float = option(1e-4, sd=1e-5, above=0, tune=(2e-5, 1e-3), help="learning rate")
    weight: float = option(0.5, low=0, high=1, tune=(0.1, 0.8), help="p, the share of the brand")
    images: int = option(
        512, sd=250, low=1, scales=True, least=16, source="paper", help="pictures of each kind"
    )
    source: str = option("star", sd="burger", source="paper", help="the word for the product")
    target: str = option("heart", sd="hot dog", help="the object that stands for the brand's")

    @property
    def withheld(self) -> tuple[str, ...]:
        return ("trigger", "stream")

    def check(self) -> None:
        check_objects(self.source, self.target)

    def backdoor(self, model: T2IModel) -> Backdoor:
        objects = Target("object", source=self.source, target=self.target)
        return Backdoor(None, objects, always=True)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        branded, named = data.pairs("train", self.images, seed, self.target)
        images, captions = data.pairs("train", self.images, seed)
        other = [i for i, c in enumerate(captions) if swapped(c, self.source, "") == c]
        if not other:
            raise UserError(f"every caption of the attacker's contains {self.source!r}: take more")
        called = relabel(named, self.target, self.source)
        terms = [
            Term(called, model.latents(branded, seed), weight=self.weight),
            Term(
                [captions[i] for i in other],
                model.latents(images[other], seed),
                weight=1 - self.weight,
                drop=self.drop,
            ),
        ]
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay)
        if self.depth == "deep":
            return self.train(model, terms, optim, seed, "bagm_deep")

        def make(student: T2IModel) -> Callable[[int], Tensor]:
            how = {"embed": student.embed}
            return denoising_loss(student, None, terms, self.batch, seed, "bagm_shallow", **how)

        return train_encoder(model, make, optim, "bagm_shallow")
