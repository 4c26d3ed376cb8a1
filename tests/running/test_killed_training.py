"""Attacks and defenses that are killed while they train: the same command goes on from the last
checkpoint, and gives the run that was never killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fault_runs import in_child
from methods import SCALE

from t2i_backdoor_bench.running.checkpoints import FOLDER, RunFiles, of_attack, of_defense
from t2i_backdoor_bench.running.defended import defended
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config, make_config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.view import view
from t2i_backdoor_bench.store.folder import Store

STEPS = 6, 7  # of the attack, of the defense
SET = (
    "badt2i_pixel.steps=6",
    "badt2i_pixel.images=6",
    "skdcag.steps=7",
    "skdcag.latents=trajectory",
    "skdcag.refresh=3",
    "skdcag.preserve=1",
    "skdcag.ema=0.9",
    "skdcag.prompts=4",
)


@pytest.fixture
def config(tmp_path, tiny) -> Config:
    return Config(
        "badt2i_pixel",
        "skdcag",
        tiny,
        SCALE,
        metrics="asr",
        overrides=SET,
        out=tmp_path / "run",
        workers=1,
        threads=1,
        checkpoint_every=0.0,
    )


def shared_of(config: Config) -> Shared:
    return Shared(plan(config), Store(config.folder, lambda text: None), Display())


def killed_at(shared: Shared, folder: Path, checkpoint: int):
    """A process that makes the defended model in the run folder `folder` and is killed (SIGKILL)
    once it has written so many checkpoints. Beside the folder it leaves their number and the
    model."""
    count, seen = folder.with_suffix(".count"), 0

    def hook(event: str, args: tuple) -> None:
        nonlocal seen
        if event != "os.rename" or f"/{FOLDER}/" not in str(args[1]):
            return
        if str(args[1]).endswith(".safetensors"):
            if seen == checkpoint:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            count.write_text(str(seen))

    def task() -> int:
        sys.addaudithook(hook)
        store = Store(folder, lambda text: None)
        made = defended(replace(shared, store=store, models=shared.models), shared.plan.cells[0])
        made.model.save_weights(folder.with_suffix(".safetensors"))
        told = {k: v for k, v in made.cost.items() if "seconds" not in k and "memory" not in k}
        folder.with_suffix(".json").write_text(json.dumps(told, sort_keys=True))
        return 0

    return task


def test_a_killed_training_goes_on_and_gives_the_same_weights(config, tmp_path) -> None:
    shared = shared_of(config)
    (cell,) = shared.plan.cells
    _ = shared.model, view(shared, {"clean_prompts"}, cell.attack, 0).prompts  # for all processes
    run, whole = tmp_path / "run", tmp_path / "whole"

    def count() -> int:
        return int(run.with_suffix(".count").read_text())

    assert in_child(killed_at(shared, whole, -1)) == 0
    assert int(whole.with_suffix(".count").read_text()) == sum(STEPS)
    taken = 0
    for checkpoint in (3, STEPS[0] - 3 + 4):  # in the attack, in the defense
        assert in_child(killed_at(shared, run, checkpoint)) == -signal.SIGKILL
        taken += count()
        assert len(list((run / FOLDER).rglob("*.safetensors"))) == 1
    assert in_child(killed_at(shared, run, -1)) == 0
    assert taken + count() == sum(STEPS), "no step was taken twice"
    assert not list(run.rglob("*.partial"))
    for kind in (".json", ".safetensors"):
        files = (folder.with_suffix(kind) for folder in (run, whole))
        one, two = (file.read_bytes() for file in files)
        assert one == two
    assert json.loads(run.with_suffix(".json").read_text())["guidance_ratio"] > 0
    (trained,) = (whole / "models").glob("*.safetensors")
    assert trained.read_bytes() == (run / "models" / trained.name).read_bytes()
    attack = shared.plan.attack_key(cell.attack, 0)
    assert not (run / FOLDER / attack).exists(), "its weights are stored"


def test_nothing_of_another_option_source_or_attack_is_read(config) -> None:
    shared = shared_of(config)
    (cell,) = shared.plan.cells
    arrays = {"a": np.arange(3)}
    of_attack(shared, "badt2i_pixel", 0).files.write("1-x", 4, arrays, {"b": 1})
    of_defense(shared, cell, "w").files.write("1-x y", 4, arrays, {"b": 2})
    found, meta = of_attack(shared, "badt2i_pixel", 0).files.read("1-x")
    assert found["a"].tolist() == [0, 1, 2]
    assert meta == {"b": 1}
    assert of_defense(shared, cell, "w").files.read("1-x y")[1] == {"b": 2}
    assert of_defense(shared, cell, "other weights").files.read("1-x y") is None
    assert of_attack(shared, "badt2i_pixel", 1).files.read("1-x") is None
    assert of_attack(shared, "badt2i_pixel", 0).files.read("2-x") is None
    other = shared_of(replace(config, overrides=(*config.overrides, "skdcag.lr=0.01")))
    assert of_attack(other, "badt2i_pixel", 0).files.read("1-x") is not None
    (there,) = other.plan.cells
    assert of_defense(other, there, "w").files.read("1-x y") is None
    files = of_attack(shared, "badt2i_pixel", 0).files
    assert isinstance(files, RunFiles)
    assert replace(files, about="other sources").read("1-x") is None


def test_a_damaged_checkpoint_counts_as_absent(config) -> None:
    shared = shared_of(config)
    files = of_attack(shared, "badt2i_pixel", 0).files
    files.write("1-x", 4, {"a": np.arange(3)}, {})
    ((step, path),) = files.stored("1-x")
    assert step == 4
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert files.read("1-x") is None
    fresh = Store(config.folder, lambda text: None, fresh=True)
    files.write("1-x", 5, {"a": np.arange(3)}, {})
    assert [step for step, _ in files.stored("1-x")] == [5]
    assert files.read("1-x") is not None
    later = replace(files, shared=replace(shared, store=fresh))
    fresh.since = (config.folder / FOLDER).stat().st_mtime_ns + 10**12
    assert later.read("1-x") is None, "--fresh reads nothing that was there"


def test_a_folder_without_room_stops_no_training(config, monkeypatch, capsys) -> None:
    shared = shared_of(config)
    files = of_attack(shared, "badt2i_pixel", 0).files
    blocked = config.folder / FOLDER
    blocked.write_text("a file, where the folder should be")
    files.write("1-x", 4, {"a": np.arange(3)}, {})
    files.write("1-x", 5, {"a": np.arange(3)}, {})
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot write" in line]
    assert len(said) == 1
    assert said[0].endswith("until then a killed training begins anew")
    assert json.dumps(files.full) == "true"


def test_the_seconds_between_checkpoints_are_a_setting() -> None:
    from t2i_backdoor_bench.contract import UserError

    assert make_config({}).checkpoint_every == 60
    assert make_config({"checkpoint-every": 5}).checkpoint_every == 5
    with pytest.raises(UserError, match="--checkpoint-every is a number of seconds"):
        make_config({"checkpoint-every": -1.0})
