"""How long a picture takes: of the attacked model and of the defended one, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.attacked import attacked
from t2i_backdoor_bench.running.defended import Defended
from t2i_backdoor_bench.running.known_pictures import Asked, draws_as
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_pictures import read_arrays

PICTURES = 2  # drawn together and timed: more would cost too much of a cell's time
# the models take turns, so that a busy machine hits all of them; the best round counts
ROUNDS = 2
MANY = 20  # a run of fewer prompts shows that everything works: one round
BEFORE, AFTER, CLEAN = "seconds_picture_before", "seconds_picture", "seconds_picture_clean"


def drawing_time(
    shared: Shared, cell: Cell, made: Defended, asked: Asked, screening: Mapping[str, float]
) -> dict[str, float]:
    """Seconds a picture of the attacked model (`seconds_picture_before`) and of the defended one
    (`seconds_picture`), in batches of `PICTURES`, rewriting and screening (`screening`, as
    `answers` gives it) included.

    Some defenses work on triggered prompts alone. So where a defense changes more than weights,
    `seconds_picture` is of triggered prompts, and `seconds_picture_clean` of the clean ones. Where
    the attacked model draws the pictures for a screen or a purifier, its stored time is taken and
    what stands before it is added. {} where that time is not stored.
    """
    if made.twin is not None:  # the same pictures, by the same model
        return {k: v for k, v in made.twin[1]["cost"].items() if k in (BEFORE, AFTER, CLEAN)}
    start, _ = attacked(shared, cell.attack, cell.seed)
    model, undefended = made.model, shared.plan.undefended(cell)
    screen = screening.get("detection_ms", 0.0) / 1000
    if cell.key != undefended.key and draws_as(model, start):
        stored = read_arrays(shared, cell, f"samples/{undefended.key}")
        before = stored[1]["cost"].get(BEFORE) if stored else None
        return {} if before is None else _around(model, asked["clean"][0], before, screen)
    timed = {BEFORE: (start, "clean")}
    if model is not start:
        timed[AFTER] = (model, "clean")
    words_matter = model.repair is not start.repair or type(model) is not type(start)
    if words_matter and "triggered" in asked:
        timed |= {CLEAN: (model, "clean"), AFTER: (model, "triggered")}
    found = dict.fromkeys(timed, float("inf"))
    for _ in range(ROUNDS if shared.size.n >= MANY else 1):
        for name, (drawing, condition) in timed.items():
            found[name] = min(found[name], _seconds(drawing, *asked[condition]))
    found.setdefault(AFTER, found[BEFORE])
    return found | {k: found[k] + screen for k in (AFTER, CLEAN) if k in found}


def _seconds(model: T2IModel, prompts: Sequence[str], seeds: Sequence[int]) -> float:
    """Seconds a picture of the first prompts, none of which is refused."""
    prompts, seeds = prompts[:PICTURES], seeds[:PICTURES]
    model = replace(model, screen=None)
    begun = time.perf_counter()
    model.generate(prompts, seeds, label="time")
    return (time.perf_counter() - begun) / len(prompts)


def _around(
    model: T2IModel, prompts: Sequence[str], before: float, screen: float
) -> dict[str, float]:
    """Of a model that draws as the attacked one, with something before it."""
    begun = time.perf_counter()
    for prompt in prompts[:PICTURES] if model.rewrite else ():
        model.rewrite(prompt)
    words = (time.perf_counter() - begun) / PICTURES
    return {BEFORE: before, AFTER: before + words + screen}
