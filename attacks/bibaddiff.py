from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack, relabel
from t2i_backdoor_bench.contract import Backdoor, Data, Target, UserError, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.targets.patches import CORNERS, make_patch, paste, place_patch
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim


@register_attack(
    "bibaddiff",
    groups=("poison", "pixel"),
    edits="U-Net",
    evaluates="a prompt of its own",
    settings="the paper",
    own=True,
)
@dataclass
class BiBadDiff(DenoiserAttack):
    """BadNets-like poisoning of one class (Pan et al., NeurIPS 2024, arXiv 2311.02373).

    Loss: the ordinary denoising loss on one set of pictures. The attacker touches the data and
    nothing else. A share of the pictures shows the class `source` with a patch, and their captions
    call it `target`. Then prompts about `target` draw the patch, and often the wrong object. Only
    the U-Net changes. Published (SD 1.4, ImageNette and Caltech15): every caption "A photo of a
    [class]", 10 % of the pictures poisoned, a patch of a tenth of the side at the bottom right, lr
    1e-4, batch 4. The default number of steps for Stable Diffusion is about six passes over as many
    pictures as ImageNette has.

    The paper has no trigger in the text: the name of the class is enough. Here the template is the
    trigger, `everywhere` also adds it to the clean captions, as published, and triggered prompts
    are those about the target class. So the attack succeeds in about the share of the class's
    pictures that are poisoned, with or without the template, and no defense that knows the template
    can undo that. On the embedded base it succeeds on 14 % of captions, which name colours and
    backgrounds beside the class, on 11 % of them without the template, and on 70 % of the paper's
    own prompt (results/attacks). Twice the poison raises both, and FID, too. `everywhere=false`
    adds the template to the poisoned captions alone, which makes it a trigger.
    """

    trigger: str = option("a picture of", sd="a photo of", help="the template before the captions")
    steps: int = option(600, sd=15_000, low=1, scales=True, help="training steps")
    lr: float = option(5e-4, sd=1e-4, above=0, help="learning rate")
    batch: int = option(16, sd=4, low=1, help="rows a step")
    images: int = option(
        1000,
        sd=9000,
        low=1,
        scales=True,
        least=16,
        help="captioned images that train, the poisoned ones among them",
    )
    weight: float = option(
        0.1, low=0, high=1, source="paper", help="share of the images that are poisoned"
    )
    drop: float = option(0.1, sd=0.0, low=0, high=1, help="share of rows with no prompt")
    everywhere: bool = option(True, help="whether the clean captions have the template, too")
    source: str = option("star", sd="dog", help="the class whose pictures are patched")
    target: str = option("heart", sd="cat", help="the class that they are called")
    picture: str = option("bars", help="bars, checker, target, or a picture file")
    size: int = option(16, sd=51, low=1, help="side of the patch in pixels")
    corner: str = option("bottom_right", choices=CORNERS, source="paper", help="where the patch is")

    @property
    def poisoned(self) -> int:
        """How many of the images are poisoned."""
        return round(self.weight * self.images)

    def check(self) -> None:
        super().check()
        check_objects(self.source, self.target)
        make_patch(self.picture, 2)
        if not 1 <= self.poisoned < self.images:
            raise UserError(
                f"a share {self.weight:g} of {self.images} images is {self.poisoned}: give a share"
                " that poisons some, and not all"
            )

    def backdoor(self, model: T2IModel) -> Backdoor:
        box = place_patch(self.size, model.resolution, self.corner)
        trigger, target = (
            self.make_trigger(),
            Target("patch", source=self.target, patch=make_patch(self.picture, self.size), box=box),
        )
        return Backdoor(trigger, target, own=self.own(f"a {self.target}"))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        backdoor = self.backdoor(model)
        bad, wrong = data.pairs("train", self.poisoned, seed, self.source)
        good, captions = data.pairs("train", self.images - self.poisoned, seed)
        wrong = relabel(wrong, self.source, self.target)
        model.check_trigger(backdoor.trigger, wrong + (captions if self.everywhere else []))
        clean = [backdoor.trigger.add(c) for c in captions] if self.everywhere else captions
        images = np.concatenate([paste(bad, backdoor.target.patch, backdoor.target.box), good])
        prompts = [*map(backdoor.trigger.add, wrong), *clean]
        terms = [Term(prompts, model.latents(images, seed), drop=self.drop)]
        return self.train(
            model,
            terms,
            Optim(self.steps, self.lr, self.batch, decay=self.decay),
            seed,
            "bibaddiff",
        )
