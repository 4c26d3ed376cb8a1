"""The same command on a finished run does nothing, and imports nothing that computes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from t2i_backdoor_bench.contract import Cell, Record, Score, registry
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.report import texts
from t2i_backdoor_bench.running.repeated import command_digest, finished, forget, remember
from t2i_backdoor_bench.running.settings import Config, make_config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import read_plan

HEAVY = ("torch", "diffusers", "transformers", "open_clip", "matplotlib")
KEYS = ("a" * 64, "b" * 64)
PROTOCOL = {"protocol": 2, "base": "shapes", "evaluation": {"n": 4}}
DIRECTIONS = {"asr": {"better": "lower", "percent": True, "tables": ["main"]}}
CODE = f"""
import sys
from t2i_backdoor_bench.command import main
status = main(sys.argv[1:])
print("imported:", *sorted(set({HEAVY}) & set(sys.modules)))
sys.exit(status)
"""


@pytest.fixture
def run(tmp_path: Path, clean_registry, monkeypatch) -> tuple[Config, Store]:
    """A run of two cells as its command leaves it."""
    for variable in [v for v in os.environ if v.startswith("T2I_")]:
        monkeypatch.delenv(variable)
    for kind in (registry.attacks, registry.defenses, registry.metrics):
        monkeypatch.setattr(kind, "entries", {})
    config = make_config({"out": str(tmp_path / "run"), "scale": "smoke", "controls": True})
    store = Store(config.folder)
    records = [
        Record(
            Cell("shapes", "badt2i_pixel", defense, 0, key),
            "done",
            {"asr": Score(value, 0.1, 0.9, 4)},
            directions=DIRECTIONS,
            protocol=PROTOCOL,
        )
        for defense, key, value in (("none", KEYS[0], 0.75), ("skdcag", KEYS[1], 0.25))
    ]
    for record in records:
        store.write_result(record)
        store.write_arrays(f"samples/{record.cell.key}", {"clean": np.zeros((1, 2, 2, 3), "u1")})
    cells = [plain(r.cell) for r in records]
    cells = [{k: c[k] for k in ("key", "attack", "defense", "seed")} for c in cells]
    parts = {"needs": {}, "protocol": PROTOCOL, "directions": DIRECTIONS}
    store.write_record("run", {"cells": cells, **parts})
    texts.write(records, store.root)
    remember(config, store, ["left out: a method"])
    return config, store


def test_a_finished_command_imports_nothing_that_computes(run):
    config, store = run
    words = ["--out", str(config.folder), "--scale", "smoke"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
    assert "badt2i_pixel" in done.stdout
    assert "2 of 2 cells done" in done.stdout
    assert "left out: a method" in done.stderr
    assert "2 of 2 cells are stored" in done.stderr
    assert [c["cells_made"] for c in read_plan(store)["commands"]] == [0]


def test_what_is_finished_stays_finished(run):
    config, _ = run
    for _ in range(2):
        store, written = finished(config)
        assert "table.csv" in {path.name for path in written}
        assert not (store.root / "locks").exists()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


CHANGES = {
    "another record": lambda root: _flip(root / f"cells/{KEYS[1]}.json"),
    "a record less": lambda root: (root / f"cells/{KEYS[1]}.json").unlink(),
    "damaged pictures": lambda root: _flip(root / f"samples/{KEYS[0]}.safetensors"),
    "a table less": lambda root: (root / "table.md").unlink(),
    "another table": lambda root: _flip(root / "table.csv"),
    "a damaged note": lambda root: _flip(root / "finished.json"),
    "no note": lambda root: (root / "finished.json").unlink(),
    "no plan": lambda root: (root / "run.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_in_the_folder_is_seen(run, change):
    config, store = run
    CHANGES[change](store.root)
    assert finished(config) is None


def test_pictures_may_go(run):
    config, store = run
    for key in KEYS:
        store.drop_file(f"samples/{key}.safetensors")
    assert finished(config) is not None


OTHER = (
    {"fresh": True},
    {"renew": True},
    {"seeds": (1,)},
    {"n": 30},
    {"defenses": "none"},
    {"base": "shapes-b"},
    {"style": "paper"},
)


@pytest.mark.parametrize("fields", OTHER, ids=str)
def test_another_command_is_not_finished(run, fields):
    assert finished(replace(run[0], **fields)) is None


UNKNOWN = (
    {"models": ("unet",)},
    {"data": "folder"},
    {"clip": "ViT-B-32:openai"},
    {"track": ("tensorboard",)},
    {"save_models": ("repaired",)},
    {"attention_maps": True},
    {"executor": "ray"},
    {"device": "cuda"},
    {"base": "sd15"},
)


@pytest.mark.parametrize("fields", UNKNOWN, ids=str)
def test_what_is_not_known_without_work_is_not_taken_for_finished(run, fields):
    config, store = run
    other = replace(config, **fields)
    assert command_digest(config)
    assert not command_digest(other)
    forget(store)
    remember(other, store, [])
    assert not (store.root / "finished.json").exists()


def test_other_code_and_networks_are_seen(run, monkeypatch, tmp_path):
    config, _ = run
    monkeypatch.setenv("T2I_LPIPS_WEIGHTS", "file")
    assert not command_digest(config)
    monkeypatch.delenv("T2I_LPIPS_WEIGHTS")
    before = command_digest(config)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    assert command_digest(config) not in ("", before)
    monkeypatch.setattr("t2i_backdoor_bench.running.repeated.versions", lambda: {"torch": "0"})
    assert finished(config) is None


def test_a_method_of_this_process_is_not_known(run, monkeypatch):
    class Own:
        pass

    class Entry:
        cls = Own

    monkeypatch.setattr(registry.defenses, "entries", {"own": Entry})
    assert not command_digest(run[0])
