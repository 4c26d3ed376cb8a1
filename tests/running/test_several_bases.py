"""`--base A,B`: a run folder for each base, one comparison, and everything checked first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import CALLS, change, config, fakes  # noqa: F401 - fixtures

from t2i_backdoor_bench import command, run
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models import catalog
from t2i_backdoor_bench.running import ending, several_bases
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.several_bases import each_base, run_each
from t2i_backdoor_bench.running.yaml_file import read_yaml


@pytest.fixture
def both(tiny, monkeypatch) -> str:
    monkeypatch.setitem(catalog.BASES, "tiny-b", catalog.BASES[tiny])
    return "tiny,tiny-b"


def flags(config: Config, base: str, *more: str) -> list[str]:
    named = {"attacks": "fake_attack", "defenses": "none,fake_defense", "base": base}
    named |= {"out": str(config.folder), "scale": "smoke", "metrics": "asr,restoration_accuracy"}
    found = [part for name, value in named.items() for part in (f"--{name}", value)]
    return [*found, "--n", "2", "--workers", "1", "--no-controls", *more]


def test_a_folder_a_base_a_comparison_and_nothing_anew(config, both, capsys):
    assert command.main(flags(config, both)) == 0
    assert sorted(p.name for p in config.folder.iterdir()) == [
        *("bases.csv", "bases.md", "tiny", "tiny-b")
    ]
    for name in both.split(","):
        assert read_yaml(config.folder / name / "run.yaml")["base"] == name
    made, page = len(CALLS), (config.folder / "bases.md").read_bytes()
    assert command.main(flags(config, both)) == 0
    assert len(CALLS) == made
    named = {"attacks": "fake_attack", "defenses": "none,fake_defense", "base": both, "n": 2}
    named |= {"metrics": "asr,restoration_accuracy", "scale": "smoke", "out": config.folder}
    capsys.readouterr()
    frame = run(**named)
    assert len(CALLS) == made
    assert list(frame["base"]) == ["tiny", "tiny", "tiny-b", "tiny-b"]
    assert frame.attrs == {"folder": str(config.folder)}
    assert not capsys.readouterr().out
    assert command.main(flags(config, both, "--tables-only")) == 0
    assert (config.folder / "bases.md").read_bytes() == page
    assert command.main(flags(config, both, "--validate")) == 0
    assert capsys.readouterr().out.count("to be made") == 2


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("tiny,nothing-here", "nothing-here: unknown base"),
        ("tiny,tiny", "give each base once"),
        ("tiny,", "give each base once"),
        ("tiny,..", "give each base once"),
    ],
)
def test_what_is_wrong_with_one_base_is_said_before_any_work(config, tiny, capsys, base, says):
    assert command.main(flags(config, base)) == 2
    assert says in capsys.readouterr().err
    assert not CALLS
    assert not config.folder.exists()


def test_a_run_folder_holds_no_other_runs(config, both):
    config.folder.mkdir(parents=True)
    (config.folder / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is the folder of a run on one base"):
        each_base(change(config, base=both))
    with pytest.raises(UserError, match="taken over one base"):
        each_base(change(config, base=both, out=None, models=("x.safetensors",)))


def test_one_base_is_a_run_as_ever_and_so_is_a_folder_with_a_comma(config, tmp_path: Path):
    assert each_base(config) == {}
    (tmp_path / "a,b").mkdir()
    assert each_base(change(config, base=str(tmp_path / "a,b"))) == {}
    found = each_base(Config(base="shapes, org/model", out=tmp_path))
    assert {name: (c.base, c.folder) for name, c in found.items()} == {
        "shapes": ("shapes", tmp_path / "shapes"),
        "model": ("org/model", tmp_path / "model"),
    }


def test_statuses_and_the_time_that_is_left(config, monkeypatch):
    assert several_bases.STOPPED == (ending.TIME_UP, ending.INTERRUPTED)
    configs = {name: replace(config, base=name) for name in "abc"}
    assert run_each(configs, lambda c: int(c.base == "a")) == 1, "the others are made"
    ran = []
    assert run_each(configs, lambda c: ran.append(c.base) or 130) == 130
    assert ran == ["a"]
    now = [0.0]
    monkeypatch.setattr(several_bases.time, "time", lambda: now[0])
    limits = []

    def make(one: Config) -> int:
        limits.append(one.time_limit)
        now[0] += 60
        return 0

    limited = {name: replace(c, time_limit=100.0) for name, c in configs.items()}
    assert run_each(limited, make) == ending.TIME_UP
    assert limits == [100.0, 40.0]
