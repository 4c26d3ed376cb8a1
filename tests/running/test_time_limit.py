"""`--time-limit`: no cell is begun after it, what has begun is finished, tables are written, and
the same command goes on."""

from __future__ import annotations

import math
import time

import pytest
from fakes import CALLS, change, config, fakes, records, table  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.running import run as running
from t2i_backdoor_bench.running import workers
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.ending import TIME_UP
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.ray_tasks import Tasks
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.running.yaml_file import to_yaml
from t2i_backdoor_bench.store.folder import Store


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("2h", 7200),
        ("90m", 5400),
        ("5400", 5400),
        (5400, 5400),
        (0.5, 0.5),
        ("1:30:00", 5400),
        ("90:00", 5400),
        ("1h30m", 5400),
        ("1d12h", 129_600),
        ("1.5h", 5400),
        ("45s", 45),
        (None, None),
    ],
)
def test_times_are_read(given, seconds) -> None:
    assert make_config({"time-limit": given}).time_limit == seconds


@pytest.mark.parametrize(
    "given", ["", "0", "-1", "2 weeks", "h", "1:2", "1:30:00:00", "nan", "inf", True, [1], "٣h"]
)
def test_what_is_no_time_is_refused(given) -> None:
    with pytest.raises(UserError, match="is no time: give seconds, or a time such as 90m"):
        make_config({"time_limit": given})


@pytest.fixture
def clock(monkeypatch):
    """The time of the run, which stands still unless a test moves it."""
    now = [1000.0]
    for module in ("run", "cell", "ending", "workers", "ray_tasks"):
        fake = type("Clock", (), {"__getattr__": lambda self, name: getattr(time, name)})()
        fake.time = lambda: now[0]
        monkeypatch.setattr(f"t2i_backdoor_bench.running.{module}.time", fake)
    return now


def test_no_cell_begins_after_the_limit_and_the_same_command_goes_on(
    config, clock, monkeypatch, capsys
) -> None:
    """The cell in which the time ends is finished."""
    real = running.Display.finish

    def later(self, key: str) -> None:
        real(self, key)
        clock[0] += 3600

    monkeypatch.setattr(running.Display, "finish", later)
    limited = change(config, time_limit=1800.0)
    assert runner.run(limited) == TIME_UP
    assert CALLS == ["attack 0"], "the attack, and its cell without a defense"
    assert (
        "the time limit is up: 1 of 2 cells are left (fake_attack x fake_defense, seed 0); the same"
        " command goes on" in capsys.readouterr().err
    )
    assert [row["status"] for row in table(config)] == ["done", "missing"]
    assert not list(config.folder.glob("locks/*"))
    assert runner.run(limited) == 0
    assert CALLS == ["attack 0", "defense -0.25 0"]
    assert [row["status"] for row in table(config)] == ["done", "done"]
    assert "the time limit" not in capsys.readouterr().err, "nothing is left"


def test_a_limit_that_is_not_reached_changes_nothing(config, tmp_path) -> None:
    assert runner.run(change(config, time_limit=1e6)) == 0
    free = change(config, out=tmp_path / "free")
    assert runner.run(free) == 0
    (one, two) = (records(c)["fake_attack", "fake_defense", 0] for c in (config, free))
    assert one.cell.key == two.cell.key
    assert one.scores == two.scores
    made = plan(change(config, time_limit=1e6))
    assert "\ntime" not in to_yaml(made.config, {})


def test_time_that_is_up_before_the_first_cell_leaves_no_table(config, clock, monkeypatch, capsys):
    real = running.preflight

    def slow(*args) -> None:
        real(*args)
        clock[0] += 3600

    monkeypatch.setattr(running, "preflight", slow)
    assert runner.run(change(config, time_limit=60.0)) == TIME_UP
    assert "the time limit is up: 2 of 2 cells are left" in capsys.readouterr().err
    assert not (config.folder / "table.csv").exists()
    assert not CALLS


def test_failed_cells_are_not_left(config, clock, monkeypatch) -> None:
    real = running.Display.finish

    def later(self, key: str) -> None:
        real(self, key)
        clock[0] += 1000

    monkeypatch.setattr(running.Display, "finish", later)
    broken = change(config, time_limit=2000.0, overrides=("fake_defense.broken=true",))
    assert runner.run(broken) == 1, "both cells were made, and one of them failed"


def test_workers_begin_nothing_after_the_limit(config, monkeypatch) -> None:
    """One that dies then is not replaced, and each is told the moment."""
    plan_, seen = plan(change(config, workers=2)), []

    class Process:
        exitcode = 1

        def __init__(self, target, args, daemon) -> None:
            events, until = args[4:6]
            seen.append(until)
            events.close()

        def start(self) -> None: ...

        def join(self) -> None: ...

        def terminate(self) -> None: ...

    context = type("Context", (), {"Pipe": workers.multiprocessing.Pipe, "Process": Process})
    monkeypatch.setattr(workers, "start_method", lambda device, threads: context)
    workers.run_workers(plan_, None, plan_.cells, Store(config.folder), Display(), 1.0)
    assert seen == [1.0, 1.0]
    seen.clear()
    workers.run_workers(plan_, None, plan_.cells, Store(config.folder), Display())
    assert seen == [math.inf] * (2 + workers.RESTARTS)


def test_tasks_that_wait_are_not_started_and_those_that_run_are_waited_for(config) -> None:
    cells = plan(config).cells
    tasks = Tasks(list(cells), set())
    assert tasks.left(math.inf)
    assert tasks.waiting == list(cells)
    tasks.running["task"] = cells[0]
    assert tasks.left(0.0)
    assert not tasks.waiting
    tasks.running.clear()
    assert not tasks.left(0.0)
