"""A method that ends with sys.exit, whose status may be 0: the run fails and says so."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from methods import Back, Shift
from shifts import config, methods, one_attack  # noqa: F401 - fixtures

import run_bench
from t2i_backdoor_bench import api, command
from t2i_backdoor_bench.contract import Metric, Registry, UserError
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store


def leave(*_: object, **__: object) -> None:
    sys.exit(0)


def test_a_cell_whose_method_exits_has_failed_and_the_others_go_on(
    one_attack: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Back, "apply", leave)
    assert command.run(one_attack) == 1
    store = Store(one_attack.folder)
    found = {c.defense: store.read_result(c.key) for c in plan(one_attack).cells}
    assert found["none"].status == "done"
    assert found["shift_back"].status == "failed"
    assert found["shift_back"].error.strip().endswith("SystemExit: 0")


def test_an_attack_that_exits_fails_each_of_its_cells_and_is_trained_once(
    one_attack: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(Shift, "inject", lambda *_: calls.append(1) or leave())
    assert command.run(one_attack) == 1
    store = Store(one_attack.folder)
    assert {store.read_result(c.key).status for c in plan(one_attack).cells} == {"failed"}
    assert len(calls) == 1


def test_a_metric_that_exits_fails_its_cell(one_attack: Config, clean_registry) -> None:
    @clean_registry.register_metric("leaves", better="lower")
    @dataclasses.dataclass
    class Leaves(Metric):
        def compute(self, samples, features):
            sys.exit()

    one = dataclasses.replace(one_attack, defenses="none", metrics="leaves")
    assert command.run(one) == 1


def test_before_any_cell_it_is_one_line(
    one_attack: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shift, "backdoor", leave)
    with pytest.raises(UserError, match=r"sys.exit\(0\) in .*test_ended_by_methods"):
        command.run(one_attack)
    monkeypatch.setattr("t2i_backdoor_bench.api.make_config", lambda settings: one_attack)
    with pytest.raises(UserError, match=r"sys.exit\(0\)"):
        api.run()


class Point:
    """An entry point of a package that exits when it is imported."""

    name, dist = "leaver", None
    load = staticmethod(leave)


def test_a_package_that_exits_when_it_is_loaded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("t2i_backdoor_bench.contract.plugged.entry_points", lambda group: [Point()])
    with pytest.raises(UserError, match=r"'leaver' .*SystemExit: 0"):
        Registry("attack", Shift).load()
    monkeypatch.setattr("t2i_backdoor_bench.report.formats.method_list.show", leave)
    assert run_bench.main(["list"]) == 2
    assert "sys.exit(0)" in capsys.readouterr().err


def test_help_ends_with_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_bench.main(["--help"])
    assert not end.value.code
    assert "--verify" in capsys.readouterr().out
