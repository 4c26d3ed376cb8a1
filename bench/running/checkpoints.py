"""Trainings that were killed go on: where a run folder keeps them while a cell is made.

OUT/training/<key of the attacked weights, or of the cell>/<number>-<label>-<step>.safetensors
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2i_backdoor_bench.contract import Cell, StorageError
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.models.checkpoints import Arrays, Checkpoints
from t2i_backdoor_bench.running.made_by import attack_sources, defense_sources
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.atomic import storing
from t2i_backdoor_bench.store.folder import Store

FOLDER = "training"


@dataclass
class RunFiles:
    """Checkpoints in a run folder. They are read where they are `about` the same: method with its
    options (the name of the folder), source files, attacked weights. A folder without room for them
    is told once, and the training goes on without."""

    shared: Shared
    key: str
    about: str
    full: bool = False

    @property
    def store(self) -> Store:
        return self.shared.store

    def stored(self, name: str) -> list[tuple[int, Path]]:
        """The step and the file of each checkpoint of a training, the newest first."""
        found = []
        for path in self.store.files(f"{FOLDER}/{self.key}", ".safetensors"):
            stem, _, step = path.stem.rpartition("-")
            if stem == plain(name) and step.isdigit():
                found.append((int(step), path))
        return sorted(found, reverse=True)

    def read(self, name: str) -> tuple[Arrays, Any] | None:
        for step, path in self.stored(name):
            found = self.store.read_arrays(f"{FOLDER}/{self.key}/{path.stem}")
            if found is not None and (found[1] or {}).get("about") == self.about:
                self.shared.display.say(f"{name.partition('-')[2]}: goes on from step {step}")
                return found[0], found[1]["meta"]
        return None

    def write(self, name: str, step: int, arrays: Arrays, meta: Any) -> None:
        if self.full:
            return
        before, stem = self.stored(name), f"{plain(name)}-{step}"
        try:
            self.store.write_arrays(
                f"{FOLDER}/{self.key}/{stem}", arrays, {"about": self.about, "meta": meta}
            )
            for _, path in before:
                if path.stem != stem:
                    self.store.drop_file(f"{FOLDER}/{self.key}/{path.name}")
        except StorageError as error:
            self.full = True
            self.shared.display.say(f"{error}; until then a killed training begins anew")


def plain(name: str) -> str:
    """The name of a training as part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name)


def of_attack(shared: Shared, attack: str, seed: int) -> Checkpoints:
    """The checkpoints of an attack's trainings."""
    about = {"sources": attack_sources(shared.plan, attack)}
    return _checkpoints(shared, shared.plan.attack_key(attack, seed), about)


def of_defense(shared: Shared, cell: Cell, weights: str) -> Checkpoints:
    """The checkpoints of the trainings of a cell's defense, on attacked `weights`."""
    about = {"sources": defense_sources(shared.plan, cell.defense), "attacked": weights}
    return _checkpoints(shared, cell.key, about)


def _checkpoints(shared: Shared, key: str, about: Mapping[str, Any]) -> Checkpoints:
    same = digest({**about, "torch": torch.__version__})
    return Checkpoints(RunFiles(shared, key, same), shared.plan.config.checkpoint_every)


def drop_checkpoints(store: Store, keys: Collection[str]) -> None:
    """Remove the checkpoints of what is stored now, and the folder of all of them when it is
    empty."""
    folder = store.path(FOLDER)
    for path in (store.path(f"{FOLDER}/{key}") for key in keys):
        if path.is_dir():
            with storing(path):
                shutil.rmtree(path)
    with contextlib.suppress(OSError):
        folder.rmdir()


def drop_left(plan: Plan, store: Store, finished: Collection[Cell]) -> None:
    """Remove what a kill left between a record and the end of its checkpoints."""
    trained = {plan.attack_key(c.attack, c.seed) for c in finished}
    drop_checkpoints(store, {c.key for c in finished} | trained)
