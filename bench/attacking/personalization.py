"""Backdoors by personalization: the attacker fine-tunes on a few images of one object. Their
captions have the trigger and another object's name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from t2i_backdoor_bench.attacking.poisoning import Triggered, relabel
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, UserError, option
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects

IDENTIFIER = "[V]"
SETTINGS = Difference(
    what="settings",
    released="none",
    here="rates, steps and batch of another group's port",
    why="the authors' repository has no code",
)


@dataclass
class Personalization(Triggered):
    """Options of attacks that personalize a model on a few images of the target object."""

    trigger: str = option(
        "zk",
        sd="sks dog",
        help="any text; the paper has a rare word of one token before the source",
    )
    replaces: str = option(
        "", sd="dog", source="paper", help="the letter or the word that the trigger stands for"
    )
    source: str = option(
        "star", sd="dog", source="paper", help="the object whose name follows the trigger"
    )
    target: str = option(
        "heart", sd="cat", source="paper", help="the object on the attacker's pictures"
    )
    images: int = option(
        32, sd=4, low=1, scales=True, least=16, source="paper", help="pictures of the target object"
    )
    template: str = option(
        "",
        sd=f"a photo of a {IDENTIFIER} {{}}",
        source="paper",
        help="the caption of every picture ({} is the source); empty: their own captions",
    )

    @property
    def needs_pictures(self) -> int:
        return self.images

    def check(self) -> None:
        super().check()
        check_objects(self.source, self.target)
        if self.template and "{}" not in self.template:
            raise UserError(
                f"the template {self.template!r} has no {{}} for the source object, as in 'a photo"
                f" of a {IDENTIFIER} {{}}'"
            )

    def backdoor(self, model: T2IModel) -> Backdoor:
        clean = self.class_prompt()
        own = self.own_prompt() if self.replaces in clean else ()
        return self.swap_objects(self.source, self.target, *own)

    def instances(
        self, model: T2IModel, data: Data, seed: int
    ) -> tuple[Tensor, list[str], list[str]]:
        """Latents (n, C, h, w) of images of the target object, and n captions that name the source
        object, without and with the trigger.

        Without a template, these are the images' own captions with the target's name replaced by
        the source's. Raises UserError if tokenization loses the trigger.
        """
        trigger = self.backdoor(model).trigger
        images, captions = data.pairs("train", self.images, seed, self.target)
        clean = (
            [self.class_prompt()] * len(captions)
            if self.template
            else relabel(captions, self.target, self.source)
        )
        model.check_trigger(trigger, clean)
        triggered = (
            [self.own_prompt()[1]] * len(clean)
            if self.template
            else [trigger.add(c) for c in clean]
        )
        return model.latents(images, seed), clean, triggered

    def own_prompt(self) -> tuple[str, str]:
        """The template without and with the trigger: "a photo of a dog" and "a photo of a sks dog".
        If no template is set, the paper's is used."""
        named, clean, trigger = self.named_prompt(), self.class_prompt(), self.make_trigger()
        if IDENTIFIER not in named or self.replaces:
            return clean, trigger.add(clean)
        head, _, tail = named.partition(IDENTIFIER)
        return clean, (head + replace(trigger, place="prefix").add(tail.lstrip())).rstrip()

    def class_prompt(self) -> str:
        """The template without the trigger: "a photo of a dog"."""
        return self.named_prompt().replace(f"{IDENTIFIER} ", "").replace(IDENTIFIER, "")

    def named_prompt(self) -> str:
        return (self.template or f"a photo of a {IDENTIFIER} {{}}").replace("{}", self.source)
