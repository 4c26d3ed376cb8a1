"""Models that a run hands out: the attacked and the repaired ones of its cells, each in a folder
with a model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from t2i_backdoor_bench.contract import Cell, Record, UserError
from t2i_backdoor_bench.models import saving
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.trust import locate
from t2i_backdoor_bench.running.attacked import attacked
from t2i_backdoor_bench.running.defended import defended_model
from t2i_backdoor_bench.running.model_card import ATTACKED, card
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.scales import FORMS
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.atomic import storing, write_text
from t2i_backdoor_bench.store.folder import Store

FOLDER, CARD = "saved", "README.md"


@dataclass(frozen=True)
class Form:
    """How a model is written: a form, and the rank of a LoRA difference."""

    name: str = "folder"
    rank: int = saving.RANK


def saved_name(plan_: Plan, cell: Cell, kind: str) -> str:
    """The folder of a model in the run folder. All cells of an attack share the attacked one."""
    key = plan_.attack_key(cell.attack, cell.seed) if kind == ATTACKED else cell.key
    return f"{FOLDER}/{kind}-{key}"


def kinds_of(plan_: Plan, cell: Cell) -> tuple[str, ...]:
    """What of a cell is to be saved. Without a defense nothing is repaired."""
    changes = any(part.name != "none" for part in plan_.defenses.get(cell.defense, ()))
    return tuple(k for k in plan_.config.save_models if changes or k == ATTACKED)


def has_saved(plan_: Plan, store: Store, cell: Cell) -> bool:
    """Whether all models of a cell that are to be saved are there, whole."""
    names = [saved_name(plan_, cell, kind) for kind in kinds_of(plan_, cell)]
    return all(store.path(f"{name}/{CARD}").is_file() for name in names)


def save_models(shared: Shared, cell: Cell, record: Record) -> None:
    """Save what of a cell is to be saved and is not there."""
    store = shared.store
    for kind in kinds_of(shared.plan, cell):
        name = saved_name(shared.plan, cell, kind)
        with store.claim(name, wait=True):
            if not store.path(f"{name}/{CARD}").is_file():
                shared.display.phase(f"save the {kind} model")
                folder = store.path(name)
                write_model(shared, cell, kind, record, folder, Form())
                shared.display.say(f"saved {kind} {cell.attack} x {cell.defense}: {folder}")


def model_of(shared: Shared, cell: Cell, kind: str) -> T2IModel:
    """The attacked or the repaired model of a cell."""
    if kind == ATTACKED:
        return attacked(shared, cell.attack, cell.seed)[0]
    return defended_model(shared, cell)


def write_model(
    shared: Shared, cell: Cell, kind: str, record: Record | None, folder: Path, form: Form
) -> None:
    """Write a model and its card, the card last: a folder without one is not whole, and is made
    anew. Raises UserError where the form cannot hold it."""
    model = model_of(shared, cell, kind)
    with storing(folder):
        if folder.exists():
            shutil.rmtree(folder)
        said = WRITERS[form.name](shared, model, folder, form)
    if kind == ATTACKED and cell.defense != "none":
        # the numbers of a cell are those of its defense
        record = shared.store.read_result(shared.plan.undefended(cell).key)
    write_text(folder / CARD, card(shared.plan, cell, kind, record, beside(model), said))


def beside(model: T2IModel) -> list[str]:
    """What a model does that is in no weight."""
    does = {
        "rewrites prompts": model.rewrite,
        "refuses prompts": model.screen,
        "changes pictures before they are decoded": model.repair,
        "draws in its own way": type(model) is not T2IModel,
    }
    return [what for what, there in does.items() if there]


def _folder(shared: Shared, model: T2IModel, folder: Path, form: Form) -> str:
    saving.write_folder(model, locate(shared.plan.base.source), folder)
    return (
        "A whole folder of diffusers: `DiffusionPipeline.from_pretrained(FOLDER)`. Its scheduler is"
        " the base's own; below is how the run drew."
    )


def _changed(shared: Shared, model: T2IModel, folder: Path, form: Form) -> str:
    many = saving.write_changed(model, shared.model, folder)
    return f"The {many} tensors that differ from the base, by `part.name` (`--model` takes them)."


def _lora(shared: Shared, model: T2IModel, folder: Path, form: Form) -> str:
    held = saving.write_lora(model, shared.model, folder, form.rank)
    return (
        f"The difference to the base as a LoRA of rank {form.rank}, which holds {held:.2%} of it"
        " (squared): `pipe.load_lora_weights(FOLDER)`. It does not draw the run's pictures bit for"
        " bit."
    )


WRITERS: dict[str, Callable[[Shared, T2IModel, Path, Form], str]] = dict(
    zip(FORMS, (_folder, _changed, _lora), strict=True)
)


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something. Raises UserError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and not empty: name a new folder")
