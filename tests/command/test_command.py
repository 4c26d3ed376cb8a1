"""The command line: bad input in one line, lists, tables alone, strict JSON."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import torch
from fakes import CALLS, METRICS, SCALE, change, config, fakes, table  # noqa: F401 - fixtures

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Prompt, Trigger, UserError
from t2i_backdoor_bench.models import catalog as bases
from t2i_backdoor_bench.running.devices import find_device
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.preflight import held_by_clean
from t2i_backdoor_bench.running.scales import SCALES


def line(capsys):
    out = capsys.readouterr()
    assert out.err.count("\n") == 1, out.err
    assert out.err.startswith("error: ")
    return out.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--attacks", "fake_atack"], "did you mean fake_attack"),
        (["--defenses", "fake_defens"], "did you mean fake_defense"),
        (["--defenses", "none+fake_defens"], "did you mean fake_defense"),
        (["--metrics", "asrr"], "did you mean asr"),
        (["--base", "shapse"], "did you mean shapes"),
        (["--scale", "tiny"], "invalid choice"),
        (["--seeds", "a"], "whole numbers"),
        (["--n", "many"], "invalid int"),
        (["--n", "1"], "too few"),
        (["--fast"], "unrecognized"),
        (["--device", "gpu9"], "unknown device"),
        (["--device", "meta"], "not supported"),
        (["--threads", "0"], "1 or more"),
        (["--set", "fake_attack.steps=many"], "it must be a whole number"),
        (["--set", "fake_attack.stepz=3"], "no option 'stepz'; it has steps"),
        (["--set", "fake_atack.steps=3"], "did you mean fake_attack"),
        (["--set", "fake_attack"], "name.option=value"),
        (["--set", "fake_attack.trigger="], "trigger is empty"),
        (["--set", "fake_attack.side=65"], "does not fit"),
        (["--set", f"fake_attack.trigger={'long ' * 60}"], "truncated"),
        (["--n", "8", "--metrics", "fid"], "--n 16"),
        (["--tables-only", "--out", "/nonexistent/run"], "no run folder"),
        (
            ["--defenses", "skd", "--set", "skd.prompts=400"],
            "prompts 400 is not between 1 and the 300",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(flags, says, tiny, tmp_path, capsys):
    start = [
        "--attacks",
        "fake_attack",
        "--defenses",
        "none,fake_defense",
        "--base",
        tiny,
        "--scale",
        "smoke",
        "--metrics",
        "asr",
    ]
    assert run_bench.main([*start, "--out", str(tmp_path / "run"), *flags]) == 2
    assert says in line(capsys)
    assert not CALLS


def test_unwritable_output_folder(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    start = ["--attacks", "fake_attack", "--defenses", "none", "--base", tiny, "--metrics", "asr"]
    assert run_bench.main([*start, "--out", str(tmp_path / "file" / "run")]) == 2
    assert "cannot write to the output folder" in line(capsys)


def test_weights_that_are_not_there(tiny, tiny_base, tmp_path, capsys, monkeypatch):
    missing = dataclasses.replace(bases.BASES[tiny], scorer=str(tmp_path / "no-scorer"))
    monkeypatch.setitem(bases.BASES, tiny, missing)
    start = [
        "--attacks",
        "fake_attack",
        "--defenses",
        "none",
        "--metrics",
        "asr",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run_bench.main([*start, "--base", tiny]) == 2
    assert "no-scorer" in line(capsys)
    (tmp_path / "empty").mkdir()
    assert run_bench.main([*start, "--base", str(tmp_path / "empty")]) == 2
    assert "no model_index.json" in line(capsys)
    assert not CALLS


def test_the_command_runs_lists_and_rebuilds(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", SCALE)
    flags = [
        "--attacks",
        "fake_attack",
        "--defenses",
        "fake_defense",
        "--base",
        tiny,
        "--scale",
        "smoke",
        "--metrics",
        METRICS,
    ]
    assert (
        run_bench.main([*flags, "--seeds", "0,1", "--workers", "1", "--out", str(tmp_path / "run")])
        == 0
    )
    assert "fake_defense" in capsys.readouterr().out
    first = (tmp_path / "run" / "table.csv").read_text()
    assert ",2,4," in first  # seeds, n
    (tmp_path / "run" / "table.csv").unlink()
    assert run_bench.main(["--tables-only", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "table.csv").read_text() == first
    assert len(CALLS) == 4
    capsys.readouterr()
    assert run_bench.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "fake_other" in listed
    assert "clean_model, clean_pairs" in listed
    assert "sd15" in listed


def test_a_small_scale_leaves_fid_out_with_its_reason(config):
    few = change(
        config, scale=dataclasses.replace(SCALE, metrics="fid"), metrics=None, defenses="none"
    )
    assert runner.run(few) == 0
    assert table(few)[0]["fid"] == ""
    with (few.folder / "rows.csv").open() as file:
        assert "as many images as features" in next(csv.DictReader(file))["note"]


def test_a_small_n_leaves_fid_out_with_a_line(config):
    small = dataclasses.replace(SCALE, metrics="all")
    plain = plan(change(config, scale=small, metrics=None, n=None))
    few = plan(change(config, scale=small, metrics=None, n=small.n))
    assert [c.key for c in few.cells] == [c.key for c in plain.cells], "as without --n"
    assert set(few.notes) - set(plain.notes) == {
        f"left out: fid needs at least 16 prompts (the dimension of the scorer's features), and n"
        f" is {small.n}; see kid"
    }


def test_run_json_is_strict_json(config):
    runner.run(config)
    json.loads(
        (config.folder / "run.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )


def test_unknown_device_is_a_user_error():
    with pytest.raises(UserError, match="cpu"):
        find_device("abacus")


def test_a_device_that_is_not_there_is_a_user_error(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="device 'mps' is not there"):
        find_device("mps")


def test_a_trigger_that_clean_prompts_hold_is_said():
    prompts = [Prompt(t) for t in ("a Blue cat", "a dog", "blueish", "a blue, blue sky")]
    assert "2 of 4 clean prompts (50%) hold the trigger 'blue'" in held_by_clean(
        "x", Trigger("blue"), prompts
    )
    assert held_by_clean("x", Trigger("mignneko"), prompts) == ""
    assert "3 of 4" in held_by_clean("x", Trigger("l", replaces="i"), prompts)
