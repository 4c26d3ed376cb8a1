"""Where the seconds of a command go, and what benchmarks/matrix_time.py says of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import config, fakes  # noqa: F401 - fixtures
from helpers import load_script

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import Cell, Record, UserError
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.phases import IDLE, Clock
from t2i_backdoor_bench.running.workers import Worker, end_workers
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import read_plan

matrix_time = load_script(Path(__file__).resolve().parents[2] / "benchmarks" / "matrix_time.py")


def test_a_clock_adds_up_to_the_time_that_went_by():
    times = iter([0.0, 2.0, 5.0, 6.0, 10.0, 11.0])
    clock = Clock(lambda: next(times))
    for phase in ("defend", "generate", IDLE, "generate", IDLE):
        clock.turn(phase)
    assert clock.spent == {"start": 2.0, "defend": 3.0, "generate": 2.0, IDLE: 4.0}
    clock.add({"generate": 1.0, "score": 0.04})
    assert clock.seconds == {"start": 2.0, "defend": 3.0, "generate": 3.0}


def test_a_run_notes_what_each_phase_took(config, monkeypatch):
    monkeypatch.setattr("t2i_backdoor_bench.running.phases.time.perf_counter", _ticking())
    assert command.run(config) == 0
    (made,) = read_plan(Store(config.folder))["commands"]
    assert {"start", "train the attack", "defend", "generate", "score"} <= set(made["phases"])
    assert IDLE not in made["phases"]


def test_the_clocks_of_workers_are_added():
    ended = []
    process = SimpleNamespace(
        terminate=lambda: ended.append("told"), join=lambda: ended.append("gone")
    )
    clocks = [Clock(_ticking()) for _ in range(3)]  # one is of a worker that died before
    clocks[0].turn("defend")
    display = Display()
    end_workers([Worker(process, None, clock=c) for c in clocks[:2]], clocks, display)
    assert ended == ["told", "told", "gone", "gone"]
    assert display.clock.seconds == {"start": 3.0, "defend": 1.0}


def _ticking():
    """A clock that goes on by a second each time that it is read."""
    ticks = iter(range(10**6))
    return lambda: float(next(ticks))


def _folder(root: Path, commands: list[dict]) -> Store:
    store = Store(root)
    cells = []
    for defense, seconds in (("none", 0.0), ("skdcag", 7.0)):
        for attack, trained in (("one", 5.0), ("two", 2.0)):
            cell = Cell("shapes", attack, defense, 0, f"{attack}-{defense}")
            cost = {"seconds": seconds, "seconds_attack": trained}
            store.write_result(Record(cell, "done", {}, cost=cost))
            cells.append({"key": cell.key, "attack": attack, "defense": defense, "seed": 0})
    parts = {"cells": cells, "needs": {}, "protocol": {"base": "shapes"}, "directions": {}}
    store.write_record("run", parts | {"commands": commands})
    return store


def test_the_script_prints_each_part(tmp_path):
    first = {
        "start": 4.0,
        "train the attack": 10.0,
        "generate": 3.0,
        "generate before the attack": 1,
    }
    again = {"start": 2.0, "score": 20.0}
    commands = [
        {"cells_made": 3, "wall_seconds": 11, "phases": first},
        {"cells_made": 0, "wall_seconds": 1, "phases": {"start": 99.0}},
        {"cells_made": 1, "wall_seconds": 9, "phases": again},
    ]
    store = _folder(tmp_path / "run", commands)
    said = matrix_time.lines(store)
    assert said[0] == "4 cells in 20 s; 40 s of all processes together:"
    table = [line.split() for line in said[1:6]]
    assert table[0] == ["scoring", "20.0", "s", "50.0", "%"]
    assert table[1] == ["attack", "10.0", "s", "25.0", "%"]
    assert table[2] == ["start", "6.0", "s", "15.0", "%"]
    assert said[-3:] == [f"{n:40}{s:9.1f} s" for n, s in SLOWEST]
    assert matrix_time.lines(store, last=True)[0].startswith("1 cells in 9 s; 22 s of")


SLOWEST = (("defense skdcag", 14.0), ("attack one", 5.0), ("attack two", 2.0))


def test_a_folder_that_does_not_say_is_an_error(tmp_path):
    with pytest.raises(UserError, match="does not say where its seconds went"):
        matrix_time.lines(_folder(tmp_path / "run", [{"cells_made": 3, "wall_seconds": 11}]))
