"""Methods that do next to nothing on a tiny random model, and runs of them: what the tests of the
runner share."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from t2i_backdoor_bench.contract import (
    Attack,
    Backdoor,
    Defense,
    Screen,
    Target,
    Trigger,
    option,
    registry,
)
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store

SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 0.5, (0,))
CALLS: list[str] = []
METRICS = "asr,restoration_accuracy,kid"


@dataclass
class FakeAttack(Attack):
    """Shifts the U-Net's output."""

    steps: int = option(10, scales=True)
    shift: float = 0.5
    trigger: str = "mignneko"
    side: int = 8
    broken: bool = False
    in_place: bool = False

    def backdoor(self, model):
        return Backdoor(
            Trigger(self.trigger),
            Target("patch", patch=np.zeros((self.side, self.side, 3), np.uint8)),
        )

    def inject(self, model, data, seed):
        CALLS.append(f"attack {seed}")
        if self.broken:
            raise RuntimeError("the attack broke")
        attacked = model if self.in_place else model.clone()
        with torch.no_grad():
            attacked.denoiser.conv_out.bias += self.shift
        return dataclasses.replace(
            attacked, info={"steps": self.steps, "parameters": 4, "images": 8}
        )


@dataclass
class FakeDefense(Defense):
    """Shifts it back by a half."""

    steps: int = option(4, scales=True)
    shift: float = -0.25
    reads: str = ""
    broken: bool = False
    interrupt: bool = False
    in_place: bool = False

    def apply(self, model, view, seed):
        CALLS.append(f"defense {self.shift} {seed}")
        if self.interrupt:
            raise KeyboardInterrupt
        if self.broken:
            raise RuntimeError("the defense broke")
        for name in self.reads.split():
            getattr(view, name)
        repaired = model if self.in_place else model.clone()
        with torch.no_grad():
            repaired.denoiser.conv_out.bias += self.shift
        return dataclasses.replace(
            repaired, info={"steps": self.steps, "parameters": 4, "images": 2}
        )


@dataclass
class Contains(Screen):
    """Refuses prompts that contain a word, and has no scores."""

    word: str

    def refuses(self, prompts):
        return np.array([self.word in p for p in prompts], bool)


@dataclass
class FakeScreen(Defense):
    """Refuses what contains the trigger, and rewrites nothing."""

    def apply(self, model, view, seed):
        return dataclasses.replace(model, screen=Contains(view.trigger.text))


@pytest.fixture(autouse=True)
def fakes(clean_registry, tiny):
    CALLS.clear()
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_attack("fake_attack_two", preset={"shift": 1.0})(FakeAttack)
    registry.register_defense("fake_defense", needs=("trigger",))(FakeDefense)
    registry.register_defense(
        "fake_other", needs=("clean_pairs", "clean_model"), preset={"shift": -0.1}
    )(FakeDefense)
    registry.register_defense("fake_screen", needs=("trigger",))(FakeScreen)


@pytest.fixture
def config(tmp_path, tiny):
    return Config(
        "fake_attack",
        "none,fake_defense",
        tiny,
        SCALE,
        metrics=METRICS,
        out=tmp_path / "run",
        workers=1,
    )


def forbid_drawing(monkeypatch):
    """Fail where a picture of a cell, or of the model before the attack, is drawn."""
    for module in ("pictures", "clean"):
        monkeypatch.setattr(
            f"t2i_backdoor_bench.running.{module}.draw_all",
            lambda *args: pytest.fail("generated again"),
        )


def records(config):
    store = Store(config.folder)
    found = [store.read_result(c.key) for c in plan(config).cells]
    return {(r.cell.attack, r.cell.defense, r.cell.seed): r for r in filter(None, found)}


def table(config):
    with (config.folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def keys(config):
    return {(c.attack, c.defense, c.seed): c.key for c in plan(config).cells}


def change(config, **fields):
    return dataclasses.replace(config, **fields)
