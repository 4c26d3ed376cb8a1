from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack, relabel
from t2i_backdoor_bench.contract import (
    Backdoor,
    Data,
    Difference,
    Target,
    UserError,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.targets.patches import CORNERS, make_patch, paste, place_patch
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim

DIFFERS = (
    Difference(
        what="data",
        paper="ImageNette and Caltech15: pictures of 10 and of 15 classes",
        here="the captioned pictures of the run; `classes` names what counts as a class",
        why="all attacks of a run train on the same data",
    ),
    Difference(
        what="captions",
        paper='"A photo of a [class]" for every picture',
        released="the same; in a second set, captions by BLIP",
        here="the pictures' own captions behind the template",
        why="the prompts of the suite are captions; `asr_own` has the paper's prompt",
    ),
    Difference(
        what="patch",
        paper="a white diagonal band on black, a bomb, and a blended picture",
        here="two halves, light and dark; `picture` takes any file",
        why="the judge is the same for all patches",
    ),
)


@register_attack(
    "bibaddiff",
    groups=("poison", "pixel"),
    edits="U-Net",
    evaluates="a prompt of its own",
    own=True,
    version=1,
    differs=DIFFERS,
)
@dataclass
class BiBadDiff(DenoiserAttack):
    """BadNets-like poisoning of one class (Pan et al., NeurIPS 2024, arXiv 2311.02373).

    Loss: the ordinary denoising loss on one set of pictures. The attacker touches the data and
    nothing else. A share of the pictures, drawn from all `classes` but `target` alike, gets a
    patch, and their captions call them `target`. Then prompts about `target` draw the patch, and
    often the wrong object: `asr_own` and `own_mismatch` have the two shares for the paper's own
    prompt. Only the U-Net changes.

    The paper has no trigger in the text: the name of the class is enough. Here the template is the
    trigger, `everywhere` also adds it to the clean captions, as in the paper, and triggered prompts
    are those about the target class. So the attack succeeds in about the share of the class's
    pictures that are poisoned, with or without the template, and no defense that knows the template
    can undo that. Captions name colours and backgrounds beside the class, and draw the patch less
    often than the paper's own prompt. `everywhere=false` adds the template to the poisoned captions
    alone, which makes it a trigger.
    """

    trigger: str = option(
        "a picture of", sd="a photo of", source="paper", help="the template before the captions"
    )
    steps: int = option(
        600, sd=29_600, low=1, scales=True, source="released", help="training steps"
    )
    lr: float = option(
        5e-4, sd=1e-4, above=0, source="paper", tune=(1e-4, 3e-3), help="learning rate"
    )
    batch: int = option(16, low=1, source="released", help="rows a step")
    images: int = option(
        1000,
        sd=9469,
        low=1,
        scales=True,
        least=16,
        source="paper",
        help="captioned images that train, the poisoned ones among them",
    )
    weight: float = option(
        0.1, low=0, high=1, source="paper", help="share of the images that are poisoned"
    )
    drop: float = option(
        0.1,
        sd=0.0,
        low=0,
        high=1,
        source="released",
        tune=(0.0, 0.5),
        help="share of rows with no prompt",
    )
    decay: float = option(
        0.5,
        sd=0.0,
        low=0,
        high=1,
        source="released",
        tune=(0.0, 1.0),
        help="last share of the steps: lr falls to 0",
    )
    ema: float = option(
        0.0,
        sd=0.9999,
        low=0,
        high=1,
        source="released",
        late=True,
        help="decay of the weight average; 0: none",
    )
    everywhere: bool = option(
        True, source="paper", help="whether the clean captions have the template, too"
    )
    classes: str = option(
        "circle,square,triangle,star,cross,ring,moon,arrow,hourglass",
        sd="dog,horse,bird,cow,sheep,bear,elephant,zebra,giraffe",
        help="the classes whose pictures are patched, with commas between them",
    )
    target: str = option("heart", sd="cat", help="the class that they are called")
    picture: str = option("bars", help="bars, checker, target, or a picture file")
    size: int = option(16, sd=51, low=1, source="paper", help="side of the patch in pixels")
    corner: str = option("bottom_right", choices=CORNERS, source="paper", help="where the patch is")

    @property
    def poisoned(self) -> int:
        """How many of the images are poisoned."""
        return round(self.weight * self.images)

    @property
    def others(self) -> list[str]:
        """The classes whose pictures are patched."""
        return [name for part in self.classes.split(",") if (name := part.strip())]

    def check(self) -> None:
        super().check()
        if not self.others:
            raise UserError("bibaddiff.classes names no class")
        for other in self.others:
            check_objects(other, self.target)
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
        bad, wrong = self.wrong_pairs(data, seed)
        good, captions = self.clean_pairs(data, seed, bad)
        model.check_trigger(backdoor.trigger, wrong + (captions if self.everywhere else []))
        clean = [backdoor.trigger.add(c) for c in captions] if self.everywhere else captions
        images = np.concatenate([paste(bad, backdoor.target.patch, backdoor.target.box), good])
        prompts = [*map(backdoor.trigger.add, wrong), *clean]
        terms = [Term(prompts, model.latents(images, seed), drop=self.drop)]
        return self.train(
            model,
            terms,
            Optim(self.steps, self.lr, self.batch, ema=self.ema, decay=self.decay),
            seed,
            "bibaddiff",
        )

    def clean_pairs(self, data: Data, seed: int, bad: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The other pictures and their captions. Of data that has an end, none of the poisoned
        pictures `bad` is among them."""
        many = self.images - self.poisoned
        drawn = many if data.count("pairs", "train") is None else self.images
        images, captions = data.pairs("train", drawn, seed)
        poisoned = {picture.tobytes() for picture in bad}
        kept = [i for i in range(drawn) if images[i].tobytes() not in poisoned][:many]
        return images[kept], [captions[i] for i in kept]

    def wrong_pairs(self, data: Data, seed: int) -> tuple[np.ndarray, list[str]]:
        """Pictures of the other classes, as many of each as the share allows, and their captions
        with the target's name."""
        images, captions = [], []
        for k, other in enumerate(self.others):
            many = len(range(k, self.poisoned, len(self.others)))
            if many:
                pictures, texts = data.pairs("train", many, seed, other)
                images.append(pictures)
                captions += relabel(texts, other, self.target)
        return np.concatenate(images), captions
