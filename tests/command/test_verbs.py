"""The verbs of the command, and that each means the same as its flag."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fakes import CALLS, SCALE, fakes  # noqa: F401 - a fixture

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract.listing import listed
from t2i_backdoor_bench.flags import make_parser
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.suites import suites


def said(capsys, *arguments: object) -> str:
    """What the command prints on stdout, where it ends with status 0."""
    capsys.readouterr()
    assert command.main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture
def flags(tiny, tmp_path, monkeypatch) -> list[str]:
    """The flags of a run of one cell."""
    monkeypatch.setitem(SCALES, "smoke", replace(SCALE, name="smoke"))
    chosen = {
        "attacks": "fake_attack",
        "defenses": "fake_defense",
        "base": tiny,
        "scale": "smoke",
        "metrics": "asr",
        "workers": "1",
        "out": str(tmp_path / "run"),
    }
    return [part for name, value in chosen.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize(
    ("verb", "flag"),
    [
        (["run"], []),
        (["run", "--scale", "smoke", "--fresh"], ["--scale", "smoke", "--fresh"]),
        (["list"], ["--list"]),
        (["list", "metrics"], ["--list"]),
        (["tables"], ["--tables-only"]),
        (["tables", "a/run"], ["--tables-only", "--out", "a/run"]),
        (["tables", "--out", "a/run"], ["--tables-only", "--out", "a/run"]),
        (["tables", "a", "--style", "paper"], ["--tables-only", "--out", "a", "--style", "paper"]),
        (["verify", "a/run"], ["--verify", "a/run"]),
    ],
)
def test_a_verb_is_its_flag(verb: list[str], flag: list[str]):
    parse = make_parser().parse_args
    assert parse(command.without_verb(verb)[0]) == parse(flag)
    assert command.without_verb(flag) == (flag, ""), "flags alone stay as they are"


def test_run_makes_what_the_flags_alone_find_stored(flags, tmp_path, capsys):
    said(capsys, "run", *flags)
    assert CALLS == ["attack 0", "defense -0.25 0"]
    before = (tmp_path / "run" / "table.csv").read_bytes()
    assert command.main(flags) == 0
    assert "1 of 1 cells are stored" in capsys.readouterr().err
    assert len(CALLS) == 2
    assert (tmp_path / "run" / "table.csv").read_bytes() == before


def test_tables_are_written_anew_by_verb_and_flag(flags, tmp_path, capsys):
    said(capsys, "run", *flags)
    run = tmp_path / "run"
    names = ("table.csv", "rows.csv", "table.md", "table.tex", "report.html")
    first = {name: (run / name).read_bytes() for name in names}
    for arguments in (["tables", run], ["--tables-only", "--out", run]):
        for name in names:
            (run / name).unlink()
        assert "fake_defense" in said(capsys, *arguments)
        assert {name: (run / name).read_bytes() for name in names} == first
    assert len(CALLS) == 2, "nothing is made"


def test_verify_makes_the_cell_again_by_verb_and_flag(flags, tmp_path, capsys):
    said(capsys, "run", *flags)
    for arguments in (["verify", tmp_path / "run"], ["--verify", tmp_path / "run"]):
        CALLS.clear()
        assert "made again, has the same 1 scores and " in said(capsys, *arguments)
        assert CALLS == ["attack 0", "defense -0.25 0"]
    record = next((tmp_path / "run" / "cells").glob("*.json"))
    stored = json.loads(record.read_text())
    stored["payload"]["scores"]["asr"]["value"] = 2.0
    record.write_text(json.dumps(stored))
    assert command.main(["verify", str(tmp_path / "run")]) == 2
    assert ".json is damaged)" in capsys.readouterr().err


def names_in(text: str) -> set[str]:
    """The first column of the tables; a row of several lines has its name on the first."""
    return {line.split("│")[1].strip() for line in text.splitlines() if line[0] == "│"} - {""}


def test_list_shows_every_method(capsys):
    text = said(capsys, "list")
    assert text == said(capsys, "--list")
    everything = {m.name for kind in ("attack", "defense", "metric") for m in listed(kind)}
    assert names_in(text) == everything | set(suites())
    assert "bases: " in text


@pytest.mark.parametrize("kind", ["attack", "defense", "metric"])
def test_list_of_a_kind_shows_that_kind_alone(kind: str, capsys):
    text = said(capsys, "list", f"{kind}s")
    assert names_in(text) == {m.name for m in listed(kind)}
    assert "bases: " not in text


def test_list_of_bases_shows_the_bases_alone(capsys):
    (line,) = said(capsys, "list", "bases").splitlines()
    assert line.startswith("bases: shapes, shapes-xl, shapes-mmdit, sd14, ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "foo"], "list foo: choose attacks, defenses, metrics, bases or suites"),
        (["list", "metrics", "foo"], "unrecognized arguments: foo"),
        (["tables", "/nowhere/run"], "there is no run folder /nowhere/run"),
        (["tables", "results", "foo"], "unrecognized arguments: foo"),
        (["verify"], "expected one argument"),
        (["verify", "/nowhere/run"], "there is no run folder /nowhere/run"),
        (["rnu"], "unrecognized arguments: rnu"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(arguments: list[str], says: str, capsys):
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert says in err


def test_version_is_that_of_the_package(capsys):
    assert said(capsys, "--version").strip() == command.version()
    assert command.version() != ""


def test_a_clone_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name: str) -> str:
        raise command.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(command.importlib.metadata, "version", missing)
    assert command.version() == "a clone that is not installed"
