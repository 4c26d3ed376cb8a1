"""Runs of the methods that do next to nothing: the fixtures that tests of faults, of batches and of
run folders share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from methods import SCALE, Back, Shift

from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config


@pytest.fixture(autouse=True)
def methods(clean_registry, monkeypatch, tmp_path):
    monkeypatch.setenv("T2I_TEST_LOG", str(tmp_path / "calls"))
    monkeypatch.setitem(SCALES, SCALE.name, SCALE)
    clean_registry.register_attack("shift_attack")(Shift)
    clean_registry.register_attack("shift_more", preset={"shift": 1.0})(Shift)
    clean_registry.register_defense("shift_back", needs=("trigger",))(Back)
    clean_registry.register_defense("shift_less", preset={"shift": 0.125})(Back)


@pytest.fixture
def config(tmp_path, tiny):
    return Config(
        "shift_attack,shift_more",
        "none,shift_back",
        tiny,
        SCALE,
        metrics="asr,kid,drift",
        out=tmp_path / "run",
        workers=1,
    )


@pytest.fixture
def one_attack(methods, config):
    """A run of one attack against two defenses, with two metrics."""
    return dataclasses.replace(config, attacks="shift_attack", metrics="asr,kid")


def forge(folder: Path, key: str, change: Callable[[dict], object]) -> None:
    """Change a stored record and make its checksum fit."""
    path = folder / "cells" / f"{key}.json"
    payload = json.loads(path.read_text())["payload"]
    change(payload)
    path.write_text(json.dumps({"sha256": digest(payload), "payload": payload}))
