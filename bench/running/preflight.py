"""What is checked on the loaded model before any work: what the user can mend fails here, and not
hours later."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.contract import Backdoor, Cell, UserError
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.view import view
from t2i_backdoor_bench.targets import kind_of


def preflight(shared: Shared, cells: Sequence[Cell]) -> None:
    """Raise UserError for missing weights, a trigger that the tokenizer loses, a patch that does
    not fit, and too few prompts for the evaluation or for a defense."""
    shared.load()
    for attack, seed in dict.fromkeys((c.attack, c.seed) for c in cells):
        backdoor, prompts = shared.backdoor(attack), shared.prompts(seed, shared.source(attack))
        if backdoor.trigger is not None:
            shared.model.check_trigger(backdoor.trigger, [p.text for p in prompts])
        shared.prompts(seed)
        check_images(shared, attack, backdoor)
        kind_of(backdoor.target).check(backdoor.target, shared.model.resolution)
    device = shared.plan.config.device
    for attack in dict.fromkeys(cell.attack for cell in cells):
        for line in shared.plan.attacks[attack].instance.notes(shared.model):
            shared.display.say(f"{attack}: {line}")
    for cell in cells:
        attack = shared.plan.attacks[cell.attack]
        for part in (*(attack.parts or (attack,)), *attack.against):
            part.instance.check_machine(device)
            part.instance.check_model(shared.model)
        check_defense(shared, cell)


def check_defense(shared: Shared, cell: Cell) -> None:
    """Raise UserError where a part of a defense cannot run on this machine, or has fewer clean
    prompts than it takes in the view that it will be given. What a locator will find is not known
    yet: the prompts behind one are those of a trigger that can be added to any."""
    given: set[str] = set()
    for part in shared.plan.defenses[cell.defense]:
        part.instance.check_machine(shared.plan.config.device)
        part.instance.check_model(shared.model)
        needs = set(part.entry.needs) - given
        if "clean_prompts" in needs:
            seen = view(shared, needs, cell.attack, cell.seed)
            seen.first(part.instance.needs_prompts)
        given |= set(part.entry.gives)


def check_images(shared: Shared, attack: str, backdoor: Backdoor) -> None:
    """Raise UserError where the data has fewer captioned images or captions than an attack trains
    on."""
    data, method = shared.data, shared.plan.attacks[attack]
    instance = method.parts[method.which].instance if method.parts else method.instance
    source, target = backdoor.target.source, backdoor.target.target
    about_objects = kind_of(backdoor.target).about_objects
    asked = [
        ("images", instance.needs_pictures, "pairs", "captioned images", ["", source, target]),
        ("prompts", instance.needs_prompts, "prompts", "captions", ["", source]),
    ]
    for option, want, what, name, words in asked:
        for word in words if about_objects else [""]:
            have = data.count(what, "train", word)
            if have is not None and have < want:
                about, way = (
                    f" about {word!r}" if word else "",
                    (f"--set {attack}.{option}={have}" if have else "choose other words"),
                )
                raise UserError(
                    f"{attack} trains on {want} {name}{about} and the train split of {data.name}"
                    f" has {have}: give more data, or {way}"
                )
