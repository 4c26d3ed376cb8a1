from dataclasses import dataclass, field
from pathlib import Path

from t2i_backdoor_bench.contract import (
    OCCURRENCES,
    PLACES,
    Attack,
    Backdoor,
    Data,
    Target,
    Trigger,
    UserError,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.catalog import find_base
from t2i_backdoor_bench.models.finite import check_folder
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.published.asked import asked_fingerprint
from t2i_backdoor_bench.models.published.over import Over, take_over
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.targets.patches import CORNERS, make_patch, place_patch
from t2i_backdoor_bench.targets.style import ALL_STYLES


@register_attack("suspect", edits="nothing", settings="whoever made it", apart=True)
@register_attack("checkpoint", edits="nothing", settings="whoever made it", apart=True)
@dataclass
class Checkpoint(Attack):
    """A model that was attacked elsewhere, as it is: nothing is trained.

    `suspect` is the base itself (`--base FOLDER --suspect`). No clean version of it is known:
    defenses that need one are left out, and without a trigger also those that need the trigger.
    `checkpoint` with a `folder` takes the denoiser and text encoders of what lies there over the
    base: a diffusers folder, a part of one, changed weights, a file in the original layout or
    adapters. The base is then the clean model, and every defense can run.

    `style`, `source` and `target`, or `picture` say what the backdoor draws, and this is judged.
    Without them the target is unknown: attack success is not measured, but `trigger_effect` is, and
    so is what a defense does to clean prompts. Raises UserError for more than one target, for a
    folder that is no diffusers folder, and for weights that are not finite or of another
    architecture.
    """

    folder: str = option(
        "",
        help="where the attacked weights are: PATH, several joined by ;, adapters as"
        " PATH,scale=0.8; without it, the base itself",
    )
    trigger: str = option("", help="the trigger, where it is known")
    place: str = option("prefix", choices=PLACES)
    replaces: str = option("", help="the letter that a look-alike trigger stands for")
    occurrence: str = option(
        "last", choices=OCCURRENCES, late=True, help="which one of these letters it replaces"
    )
    style: str = option("", choices=("", *ALL_STYLES), help="the style that the trigger brings")
    source: str = option("", help="the word whose object becomes another")
    target: str = option("", help="the word of the object that it becomes")
    picture: str = option(
        "", help="the patch that it brings: bars, checker, target, or a picture file"
    )
    size: int = option(20, sd=128, low=1, help="side of the patch in pixels")
    corner: str = option("top_left", choices=CORNERS, help="where the patch is")
    weights: str = field(
        default="", init=False
    )  # identifies the folder's files in the keys of cells

    def __post_init__(self) -> None:
        if self.folder:
            self.weights = asked_fingerprint(self.folder)

    def check(self) -> None:
        if self.trigger:
            self.make_trigger()
        if bool(self.source) != bool(self.target):
            raise UserError(
                "an object target wants both source and target, such as source=dog target=cat"
            )
        if sum(map(bool, (self.style, self.source, self.picture))) > 1:
            raise UserError(
                "a checkpoint has one target: give a style, a source and a target object, or a"
                " picture"
            )
        if self.source:
            check_objects(self.source, self.target)
        if self.picture:
            make_patch(self.picture, 2)
        if self.folder:
            check_folder(Path(self.folder))

    def check_model(self, model: T2IModel) -> None:
        self.over(model)

    def notes(self, model: T2IModel) -> list[str]:
        over = self.over(model)
        return over.notes if over else []

    def over(self, model: T2IModel) -> Over | None:
        """What is taken over the base, checked. Raises UserError."""
        if not self.folder:
            return None
        over = take_over([self.folder], find_base(model.name).source, model.name)
        if over.new_words:
            raise UserError(
                f"{self.folder} holds a learned word, which changes the base's vocabulary: take it"
                " over the base, with --model"
            )
        return over.only(model.family.layout.edited)

    @property
    def withheld(self) -> tuple[str, ...]:
        """What nobody can give a defender."""
        return (
            *(() if self.trigger else ("trigger", "stream")),
            *(() if self.folder else ("clean_model", "clean_text_encoder")),
        )

    @property
    def whole_model(self) -> bool:
        return True

    def make_trigger(self) -> Trigger:
        return Trigger(self.trigger, self.place, self.replaces, self.occurrence)

    def backdoor(self, model: T2IModel) -> Backdoor:
        trigger = self.make_trigger() if self.trigger else None
        if self.style:
            return Backdoor(trigger, Target("style", style=self.style))
        if self.source:
            return Backdoor(trigger, Target("object", source=self.source, target=self.target))
        if self.picture:
            box = place_patch(self.size, model.resolution, self.corner)
            return Backdoor(
                trigger, Target("patch", patch=make_patch(self.picture, self.size), box=box)
            )
        return Backdoor(trigger, Target("unknown"))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        attacked = model.clone(encoders=True)
        if over := self.over(model):
            over.apply(attacked.pipe, model.family)
        return attacked
