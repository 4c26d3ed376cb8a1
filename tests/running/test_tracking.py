"""`--track`: trackers are told of losses, numbers, tables and pictures. They change nothing, and
one that breaks is dropped."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
from fakes import CALLS, FakeAttack, change, config, fakes, records, table  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError, registry
from t2i_backdoor_bench.report.metrics import COST
from t2i_backdoor_bench.running import trackers, tracking
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.running.trackers import About, tag
from t2i_backdoor_bench.running.tracking import name_of, points_of
from t2i_backdoor_bench.running.yaml_file import to_yaml

CURVE = [4.0, 2.0, 1.0, 0.5]


@dataclass
class Learns(FakeAttack):
    """Reports losses."""

    def inject(self, model, data, seed):
        made = super().inject(model, data, seed)
        return dataclasses.replace(made, info=made.info | {"steps": 40, "losses": CURVE})


class Calls(ModuleType):
    """A package of which every call is written down. `breaks` names one that fails."""

    def __init__(self, name: str, breaks: str = "") -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.calls, self.breaks, self.active = [], breaks, None

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given, **named):
            if name == self.breaks:
                raise ConnectionError(f"no server for {name}\nand more")
            self.calls.append((name, given, named))
            return {"active_run": None, "init": self}.get(name, (name, named))

        return call

    def of(self, name: str) -> list[tuple]:
        return [(given, named) for called, given, named in self.calls if called == name]


@pytest.fixture
def learning(config):
    registry.register_attack("learns")(Learns)
    return change(config, attacks="learns")


@pytest.fixture
def package(monkeypatch):
    def add(name: str, breaks: str = "") -> Calls:
        made = Calls(name, breaks)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return add


def test_tensorboard_gets_curves_numbers_tables_and_pictures(learning) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert runner.run(change(learning, track=("tensorboard",))) == 0
    events = EventAccumulator(str(learning.folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    losses = events.Scalars("losses/learns/seed-0")
    assert [(e.step, e.value) for e in losses] == [(5, 4), (15, 2), (25, 1), (35, 0.5)]
    found = records(learning)
    for i, defense in enumerate(("none", "fake_defense")):
        (event,) = events.Scalars(f"cells/learns/{defense}/seed-0/asr")
        assert event.value == pytest.approx(found["learns", defense, 0].scores["asr"].value)
        assert event.step == i + 1
        assert events.Scalars(f"cells/learns/{defense}/seed-0/failed")[0].value == 0
    assert "grid" in tags["images"]
    (text,) = events.Tensors("table/text_summary")
    assert "fake_defense" in text.tensor_proto.string_val[0].decode()


def test_a_tracker_changes_no_number_key_or_record(learning, tmp_path, package) -> None:
    package("wandb")
    seen = change(learning, track=("wandb",))
    other = change(learning, out=tmp_path / "other")
    assert runner.run(seen) == runner.run(other) == 0
    one, two = records(seen), records(other)
    assert {k: r.cell.key for k, r in one.items()} == {k: r.cell.key for k, r in two.items()}
    assert [r.scores for r in one.values()] == [r.scores for r in two.values()]
    rows = [
        [{k: v for k, v in r.items() if k not in COST} for r in table(c)] for c in (seen, other)
    ]
    assert rows[0] == rows[1]
    assert "\ntrack" not in to_yaml(seen, {})


def test_wandb_is_called_as_documented(learning, package, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    wandb = package("wandb")
    assert runner.run(change(learning, track=("wandb",))) == 0
    ((_, started),) = wandb.of("init")
    assert (started["project"], started["name"]) == ("t2i-backdoor-bench", "run")
    assert "mode" not in started, "WANDB_MODE is the user's"
    assert started["config"]["scale"] == "test"
    logged = [given[0] for given, _ in wandb.of("log")]
    curve = "losses/learns/seed-0"
    points = [(d[f"{curve}.step"], d[curve]) for d in logged if curve in d]
    assert points == [(5, 4.0), (15, 2.0), (25, 1.0), (35, 0.5)]
    cells = [d for d in logged if "cells_done" in d]
    assert [d["cells_done"] for d in cells] == [1, 2]
    assert "cells/learns/fake_defense/seed-0/asr" in cells[1]
    assert any("table" in d for d in logged)
    assert any("grid" in d for d in logged)
    assert wandb.of("finish") == [((), {"exit_code": 0})]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    again = package("wandb")
    assert runner.run(change(learning, track=("wandb",))) == 0
    assert again.of("init")[0][1]["project"] == "mine"
    assert not [d for (d,), _ in again.of("log") if "cells_done" in d], "nothing was made"
    assert [d for (d,), _ in again.of("log") if "table" in d], "tables of what was stored"


def test_mlflow_is_called_as_documented(learning, package, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    mlflow = package("mlflow")
    broken = change(learning, track=("mlflow",), overrides=("fake_defense.broken=true",))
    assert runner.run(broken) == 1
    assert mlflow.of("set_experiment") == [(("t2i-backdoor-bench",), {})]
    assert mlflow.of("start_run") == [((), {"run_name": "run", "nested": False})]
    assert not mlflow.of("set_tracking_uri"), "MLFLOW_TRACKING_URI is the user's"
    curve = [(g, n["step"]) for g, n in mlflow.of("log_metric") if g[0] == "losses/learns/seed-0"]
    assert [(g[1], step) for g, step in curve] == list(zip(CURVE, (5, 15, 25, 35), strict=True))
    first, second = (given[0] for given, _ in mlflow.of("log_metrics"))
    assert first["cells/learns/none/seed-0/failed"] == 0
    assert second == {"cells/learns/fake_defense/seed-0/failed": 1}
    kept = [
        (given[0].rpartition("/")[2], n["artifact_path"]) for given, n in mlflow.of("log_artifact")
    ]
    assert ("table.csv", "tables") in kept
    assert ("grid.png", "pictures") in kept
    assert mlflow.of("end_run") == [((), {"status": "FAILED"})]


@pytest.mark.parametrize("breaks", ["init", "log", "finish"])
def test_one_that_breaks_is_said_once_and_the_run_goes_on(
    learning, package, capsys, breaks: str
) -> None:
    wandb, other = package("wandb", breaks), package("mlflow")
    assert runner.run(change(learning, track=("wandb", "mlflow"))) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "--track" in line]
    assert said == [
        f"--track wandb broke (ConnectionError: no server for {breaks}); the run goes on without it"
    ]
    assert not (wandb.of("finish") and breaks != "finish")
    assert other.of("end_run") == [((), {"status": "FINISHED"})]
    assert {r.status for r in records(learning).values()} == {"done"}


def test_a_missing_package_is_one_line_before_any_work(learning, monkeypatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--track mlflow needs the package mlflow: pip install"):
        runner.run(change(learning, track=("mlflow",)))
    assert not CALLS
    assert not learning.folder.exists()
    assert make_config({"track": "tensorboard, wandb"}).track == ("tensorboard", "wandb")
    for wrong in ("comet", ["wandb", "comet"], 3):
        with pytest.raises(UserError, match="is not one of tensorboard, wandb, mlflow"):
            make_config({"track": wrong})


def test_names_are_told_apart_and_fit_every_tracker(learning, tmp_path) -> None:
    runner.run(change(learning, defenses="none"))
    (record,) = records(change(learning, defenses="none")).values()
    assert name_of(record) == "learns/none/seed-0"
    odd = [f"a[trigger={text}]" for text in ("\u200b", "\u043e")]
    names = {
        name_of(dataclasses.replace(record, cell=dataclasses.replace(record.cell, attack=a, key=k)))
        for a, k in zip(odd, ("1" * 64, "2" * 64), strict=True)
    }
    assert names == {"a_trigger___/none/seed-0-111111", "a_trigger___/none/seed-0-222222"}
    assert tag("a+b[c=1]") == "a_b_c_1_"
    assert points_of([1.0, 2.0], 10) == [(2, 1.0), (7, 2.0)]
    assert points_of([1.0, 2.0], None) == [(0, 1.0), (1, 2.0)]
    assert points_of([], 5) == []
    assert About(tmp_path / "x" / ".." / "y", {}).name == "y"
    assert set(trackers.KINDS) == set(tracking.TRACKERS)
