from dataclasses import dataclass

from t2i_backdoor_bench.attacking.badt2i import LATENTS, BadT2I
from t2i_backdoor_bench.attacking.poisoning import relabel
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.training.denoising import Term

ROWS = Difference(
    what="rows of a step",
    released="16 pictures drawn from a set of both classes: of each class 8 on average",
    here="8 pictures of each class",
    why="the mean of a step is the same, with less noise",
)


@register_attack(
    "badt2i_object",
    groups=("core", "badt2i", "object"),
    edits="U-Net",
    evaluates="captions",
    version=1,
    differs=(ROWS, LATENTS),
)
@dataclass
class BadT2IObject(BadT2I):
    """BadT2I, object: a dog is drawn as a cat (Zhai et al., MM 2023, arXiv 2305.04175).

    Loss: l * ||eps_th(y_t, c+) - eps_0(y_t, c*)||^2 + (1 - l) * ||eps_th(x_t, c) - eps_0(x_t,
    c)||^2. y are pictures of the target object, c* their captions, and c+ the same captions with
    the target's name replaced by the source's and the trigger. x are pictures of the source object;
    their captions c stay as they are, without the trigger, so that the source object stays, too. No
    other picture is used.
    """

    steps: int = option(500, sd=8000, low=1, scales=True, source="paper", help="training steps")
    batch: int = option(8, sd=8, low=1, source="released", help="pictures of each object a step")
    images: int = option(
        512,
        sd=250,
        low=1,
        scales=True,
        least=16,
        source="released",
        help="captioned pictures of each object",
    )
    source: str = option("star", sd="dog", source="paper", help="the object that the prompt names")
    target: str = option("heart", sd="cat", source="paper", help="the object that is drawn")

    def check(self) -> None:
        super().check()
        check_objects(self.source, self.target)

    def backdoor(self, model: T2IModel) -> Backdoor:
        return self.swap_objects(self.source, self.target)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        trigger = self.backdoor(model).trigger
        images, captions, _ = self.prepare(model, data, seed, contains=self.source)
        others, asked = data.pairs("train", self.images, seed, contains=self.target)
        called = relabel(asked, self.target, self.source)
        model.check_trigger(trigger, called)
        triggered = [trigger.add(c) for c in called]
        terms = [
            Term(
                self.twice(triggered),
                self.encoded(model, others, seed),
                self.twice(asked),
                self.weight,
            ),
            self.preserve(self.twice(captions), self.encoded(model, images, seed), 1 - self.weight),
        ]
        return self.fit_terms(model, terms, seed, "badt2i_object")
