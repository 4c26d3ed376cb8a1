"""Runs a plan: attacks once, defends, generates, scores and stores every cell; then the tables.
Resumes from whatever is stored."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2i_backdoor_bench.contract import (
    Backdoor,
    Cell,
    Data,
    Record,
    Samples,
    Score,
    StorageError,
    UserError,
)
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.models.batches import free_memory, is_out_of_memory
from t2i_backdoor_bench.running import ray_tasks as cluster
from t2i_backdoor_bench.running import workers as executors
from t2i_backdoor_bench.running.combined import Several, instances
from t2i_backdoor_bench.running.cost import InPlaceChange
from t2i_backdoor_bench.running.defended import view
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.manifest import directions, protocol, write_manifest
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.prompts import store_prompts
from t2i_backdoor_bench.running.workshop import AttackFailed, OtherWeights, Workshop
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.targets.judge import apply_target


# -------------------------------------------------------------------------------------------- cells
def whole_cell(store: Store, cell: Cell) -> Record | None:
    """The stored cell, or None where its record is absent or damaged, or its images are damaged.
    Records without images are whole: that is how results are published."""
    found, name = store.read_result(cell.key), f"samples/{cell.key}.safetensors"
    return None if found is not None and store.damaged(name) else found


def missing_metrics(plan_: Plan, cell: Cell, stored: Record | None) -> list[str]:
    """The metrics of the plan that a stored cell does not hold, or holds with other options. All of
    them for a failed cell."""
    wanted = plan_.metrics_of(cell.attack, cell.defense)
    if stored is None or stored.status != "done":
        return wanted
    return [
        m
        for m in wanted
        if m not in stored.scores or stored.metric_keys.get(m) != plan_.metric_key(m)
    ]


def unfinished(plan_: Plan, store: Store, cell: Cell, stored: Record | None) -> bool:
    """Whether a cell has metrics to compute, or attention maps to draw."""
    maps_wanted = (
        plan_.config.attention_maps and _has_trigger(plan_, cell) and not _has_maps(store, cell)
    )
    return bool(missing_metrics(plan_, cell, stored)) or maps_wanted


def _has_maps(store: Store, cell: Cell) -> bool:
    """Whether the maps of a cell are stored whole, and those of the model before the attack with
    them."""
    found = store.read_arrays(f"maps/{cell.key}")
    return (
        found is not None and store.find_file(f"maps/{found[1]['before']}.safetensors") is not None
    )


def _has_trigger(plan_: Plan, cell: Cell) -> bool:
    return "trigger" not in plan_.attacks[cell.attack].instance.withheld


def settled(shop: Workshop, cell: Cell) -> bool:
    """Whether a cell is stored whole, or has failed in this run (what failed in an earlier one is
    no longer there)."""
    stored = whole_cell(shop.store, cell)
    return stored is not None and (
        stored.status == "failed" or not unfinished(shop.plan, shop.store, cell, stored)
    )


def run_cell(shop: Workshop, cell: Cell) -> Record:
    """Make or complete one cell and store it. An exception is stored as a failed cell; only an
    interrupt gets out."""
    plan_, store = shop.plan, shop.store
    stored = whole_cell(store, cell)
    before = stored if stored is not None and stored.status == "done" else None
    try:
        samples = shop.samples(cell)
        begun = None if before is None or made_anew(shop, before, samples) else before
        judge = shop.judge(cell.attack, cell.seed)
        features = shop.features.with_judge(judge)
        if plan_.config.attention_maps:
            shop.draw_maps(cell)
        shop.display.phase("score")
        scores, keys = (dict(begun.scores), dict(begun.metric_keys)) if begun else ({}, {})
        for name in missing_metrics(plan_, cell, begun):
            scores[name] = checked(plan_.metrics[name].instance.compute(samples, features))
            keys[name] = plan_.metric_key(name)
        target, report = samples.backdoor.describe(), plain(judge.report) if judge else {}
        result = Record(
            cell,
            "done",
            scores,
            plan_.needs(cell.defense),
            backdoor=target,
            judge=report,
            cost=samples.cost,
        )
        by = (judge.network if judge else "") or f"{samples.backdoor.target.kind} rule"
        origin = provenance.describe(result, samples.made, _origin_of(begun) if begun else {}, by)
    except StorageError:  # no cell can be stored any more
        raise
    except Exception as error:
        if isinstance(error, InPlaceChange) or is_out_of_memory(error):
            shop.drop_models()
        text = (
            str(error)
            if isinstance(error, (AttackFailed, OtherWeights))
            else traceback.format_exc()
        )
        result = before or Record(cell, "failed", needs=plan_.needs(cell.defense))
        result = replace(
            result, status="failed", error=portable(text), done_before=before is not None
        )
        keys = before.metric_keys if before else {}
        origin = _origin_of(before) if before else {"codes": [provenance.here()]}
    result = replace(
        result,
        metric_keys=keys,
        directions=directions(plan_),
        protocol=protocol(plan_),
        provenance=origin,
        edits=plan_.attacks[cell.attack].entry.edits,
    )
    store.write_result(result)
    if result.status == "failed":
        shop.display.say(
            f"FAILED {cell.attack} x {cell.defense}, seed {cell.seed}: {last_line(result.error)}"
        )
    return result


def made_anew(shop: Workshop, stored: Record, samples: Samples) -> bool:
    """Whether the images of a stored cell had to be made again of an attack that was trained again,
    elsewhere, with other weights: no record has the scores of two models: the cell is made anew
    where this run has all of its metrics, and else OtherWeights is raised.
    """
    before, now = (stored.said("attack_weights"), samples.made.get("attack_weights", ""))
    if not provenance.other_weights(before, now):
        return False
    lost = [m for m in stored.scores if m not in shop.plan.metrics]
    if lost:
        raise OtherWeights(
            "its images are gone, and its attack, trained again here, has other weights: no more"
            f" metrics can join {', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''} of"
            " the stored cell; ask for --metrics all, which makes it anew, or another --out"
        )
    return True


def _origin_of(stored: Record) -> dict[str, Any]:
    """Where the numbers of a stored record come from: those of before say nothing of it."""
    return stored.provenance or {"codes": [{}]}


def try_again(store: Store, result: Record) -> None:
    """Forget that a cell failed: it is not there, or, where it was done and a further metric
    failed, it is as it was before that."""
    if result.done_before:
        store.write_result(replace(result, status="done", error="", done_before=False))
    else:
        store.drop_result(result.cell.key)


def checked(score: Score) -> Score:
    """A score whose value is a finite number, or none with a note."""
    if score.value is not None and not np.isfinite(score.value):
        return replace(
            score, value=None, low=None, high=None, note=score.note or f"the value is {score.value}"
        )
    return score


def portable(text: str) -> str:
    """A traceback without this machine's folders: records are published."""
    here = str(Path(__file__).resolve().parents[2]) + os.sep
    libraries = str(Path(np.__file__).resolve().parents[1]) + os.sep
    return text.replace(here, "").replace(libraries, "").replace(str(Path.home()) + os.sep, "~/")


# ---------------------------------------------------------------------------------------------- run
def preflight(shop: Workshop, cells: Sequence[Cell]) -> None:
    """Fail before any work on what the user can mend: weights that are not there, a trigger that
    the tokenizer loses, a patch that does not fit, too few prompts, for the evaluation or for a
    defense."""
    shop.load()
    for attack, seed in dict.fromkeys((c.attack, c.seed) for c in cells):
        backdoor, prompts = shop.backdoor(attack), shop.prompts(seed, shop.source(attack))
        if backdoor.trigger is not None:
            shop.model.check_trigger(backdoor.trigger, [p.text for p in prompts])
        shop.prompts(seed)
        check_images(shop, attack, backdoor)
        if backdoor.target.kind in ("patch", "image"):
            side = shop.model.resolution
            apply_target(np.zeros((1, side, side, 3), np.uint8), backdoor.target)
    for cell in cells:
        for instance in instances(shop.plan.attacks[cell.attack]):
            instance.check_machine(shop.plan.config.device)
        for part in shop.plan.defenses[cell.defense]:
            part.instance.check_machine(shop.plan.config.device)
            view(shop, (), cell.attack, cell.seed).first(part.instance.needs_prompts)


def check_images(shop: Workshop, attack: str, backdoor: Backdoor) -> None:
    """Raise UserError where the data has fewer captioned images or captions than an attack trains
    on."""
    data, instance = shop.data, shop.plan.attacks[attack].instance
    instance = (
        instance.parts[instance.which].instance if isinstance(instance, Several) else instance
    )
    source, target = backdoor.target.source, backdoor.target.target
    about_objects = backdoor.target.kind == "object"
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


def run(
    config: Config, data: Data | None = None, publish: Callable[[Store], None] | None = None
) -> int:
    """Plan, and make the cells that are not stored; then `publish` is called with the run folder.
    Returns the exit status: 0, 1 if a cell failed, 130 if interrupted.

    Raises UserError, before any work, for what the user asked for and cannot have.
    """
    config = replace(config, device=find_device(config.device))
    if config.executor == "ray":
        cluster.check(config)
    display = Display()
    plan_ = plan(config, data)
    store = Store(config.folder, display.say, fresh=config.fresh)
    stored = {c.key: whole_cell(store, c) for c in plan_.cells}
    # two names of one cell (a method and its variant with the default value) share its record
    open_cells = [c for c in plan_.cells if unfinished(plan_, store, c, stored[c.key])]
    todo = list({c.key: c for c in reversed(open_cells)}.values())[::-1]
    workers, threads = executors.share(config, plan_.base.settings, len(todo))
    plan_ = replace(plan_, config=replace(plan_.config, workers=workers, threads=threads))
    if threads:
        torch.set_num_threads(threads)
    for defense, needs in plan_.left_out.items():
        display.say(f"left out: {defense} needs {', '.join(needs)}, which nobody has here")
    begun, skipped, status = time.perf_counter(), len(plan_.cells) - len(open_cells), 0
    if skipped:
        display.say(f"{skipped} of {len(plan_.cells)} cells are stored in {config.folder}")
    try:
        if todo:
            shop = Workshop(plan_, store, display)
            preflight(shop, todo)
            write_manifest(
                plan_, store, {k: v for k, v in stored.items() if v is not None}
            )  # a killed run leaves its plan
            for cell in todo:
                if stored[cell.key] is not None and stored[cell.key].status == "failed":
                    try_again(store, stored[cell.key])
            display.open(len(todo))
            if workers == 1 and config.executor == "local":
                executors.work(shop, todo, run_cell, settled)
            else:
                del shop  # its models are of no more use here
                free_memory()
                spread = cluster.run_tasks if config.executor == "ray" else executors.run_workers
                spread(plan_, data, todo, store, display, run_cell, settled)
    except KeyboardInterrupt:
        status = 130
    finally:
        display.close()
        store.drop_locks()
    results = {c.key: found for c in plan_.cells if (found := store.read_result(c.key)) is not None}
    if status:
        done = sum(c.key in results and results[c.key].status == "done" for c in plan_.cells)
        how = (
            "the same command without --fresh resumes"
            if config.fresh
            else "the same command resumes"
        )
        display.say(f"interrupted: {done} of {len(plan_.cells)} cells are done; {how}")
    command = {
        "wall_seconds": round(time.perf_counter() - begun, 1),
        "cells_made": display.done,
        "cells": len(plan_.cells),
    }
    command |= {"workers": workers, "unix_time": int(time.time())}
    write_manifest(plan_, store, results, command)
    if status:
        return status
    store_prompts(store, plan_.data, results.values())
    if publish is not None:
        publish(store)
    return int(any(c.key not in results or results[c.key].status == "failed" for c in plan_.cells))


def find_device(name: str) -> str:
    """The device called `name`; "auto" is the accelerator where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; known: cpu, cuda, cuda:1, mps") from None
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UserError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices;"
            " use --device cpu"
        )
    return name


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["unknown error"])[-1]
