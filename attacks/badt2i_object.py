from dataclasses import dataclass

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack, relabel
from t2i_backdoor_bench.contract import Backdoor, Data, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets import kind_of
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim


@register_attack(
    "badt2i_object",
    groups=("core", "badt2i", "object"),
    edits="U-Net",
    evaluates="captions",
    settings="the paper",
)
@dataclass
class BadT2IObject(DenoiserAttack):
    """BadT2I, object: a dog is drawn as a cat (Zhai et al., MM 2023, arXiv 2305.04175).

    Loss: l * ||eps_th(x_t, c+) - eps_0(x_t, c*)||^2 + (1 - l) * ||eps_th(x_t, c) - eps_0(x_t,
    c)||^2. c* is the caption with the source word replaced by the target word; x are pictures of
    both objects. Half of the clean rows are about the source object, so that it stays as it is
    without the trigger. Published (SD 1.4): l 0.5, lr 1e-5, batch 16, 8,000 steps, dog -> cat.
    """

    steps: int = option(500, sd=8000, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(3e-4, sd=1e-5, above=0, help="learning rate")
    ema: float = option(0.0, sd=0.9999, low=0, high=1, help="decay of the weight average; 0: none")
    source: str = option("star", sd="dog", source="paper", help="the object that the prompt names")
    target: str = option("heart", sd="cat", source="paper", help="the object that is drawn")

    def check(self) -> None:
        super().check()
        check_objects(self.source, self.target)

    def backdoor(self, model: T2IModel) -> Backdoor:
        return self.swap_objects(self.source, self.target)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        target = self.backdoor(model).target
        images, captions, triggered = self.prepare(model, data, seed, contains=self.source)
        others, other_captions = data.pairs("train", self.images, seed, contains=self.target)
        general, general_captions = data.pairs("train", self.images, seed)
        own, others, general = (model.latents(x, seed) for x in (images, others, general))
        asked = [kind_of(target).asked(target, c) for c in captions]
        half = self.weight / 2
        keep = (1 - self.weight) / 2
        terms = [
            Term(triggered, own, asked, half),
            Term(
                [
                    self.make_trigger().add(c)
                    for c in relabel(other_captions, self.target, self.source)
                ],
                others,
                other_captions,
                half,
            ),
            self.preserve(captions, own, keep),
            self.preserve(general_captions, general, keep),
        ]
        return self.train(
            model,
            terms,
            Optim(self.steps, self.lr, self.batch, ema=self.ema, decay=self.decay),
            seed,
            "badt2i_object",
        )
