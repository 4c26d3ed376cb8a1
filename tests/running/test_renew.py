"""Cells that were made by older code: a second run says so, and `--renew` makes them anew."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from fakes import CALLS, change, config, fakes, records  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.store import sources

CODE = '''
from dataclasses import dataclass, replace
import torch
from t2i_backdoor_bench.contract import Defense

@dataclass
class Mine(Defense):
    """Shifts the output."""
    def apply(self, model, view, seed):
        repaired = model.clone()
        with torch.no_grad():
            repaired.denoiser.conv_out.bias += -0.25
        return replace(repaired, info={"steps": 1})
'''


@pytest.fixture
def mine(fakes, tmp_path):
    """Writes the file of a defense "mine" and registers it, as often as it is called."""
    path, forget = tmp_path / "mine_of_a_user.py", sources._read.cache_clear

    def write(code):
        path.write_text(code)
        forget()
        spec = importlib.util.spec_from_file_location("mine_of_a_user", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["mine_of_a_user"] = module
        spec.loader.exec_module(module)
        registry.defenses.entries.pop("mine", None)
        registry.register_defense("mine")(module.Mine)

    yield write
    sys.modules.pop("mine_of_a_user", None)
    forget()


@pytest.fixture
def asked(config):
    return change(config, defenses="none,mine")


def test_other_code_is_named_and_its_cell_stays(mine, asked, capsys):
    mine(CODE)
    assert runner.run(asked) == 0
    first = {d: r.provenance for (_, d, _), r in records(asked).items()}
    assert set(first["mine"]["sources"]) == {"attack", "defense", "pictures", "scores"}
    capsys.readouterr()
    mine(CODE.replace("-0.25", "-0.5"))
    assert runner.run(asked) == 0
    said = capsys.readouterr().err
    assert "1 stored cells were made by older code (changed since: mine_of_a_user)" in said
    assert "--renew" in said
    assert {d: r.provenance for (_, d, _), r in records(asked).items()} == first


def test_renew_makes_anew_what_changed_and_nothing_else(mine, asked, capsys):
    mine(CODE)
    assert runner.run(asked) == 0
    before = {d: r for (_, d, _), r in records(asked).items()}
    mine(CODE.replace("-0.25", "-30.0"))
    CALLS.clear()
    assert runner.run(change(asked, renew=True)) == 0
    after = {d: r for (_, d, _), r in records(asked).items()}
    assert CALLS == [], "the attack stays as it is"
    assert after["none"] == before["none"]
    assert after["mine"].scores["kid"].value != before["mine"].scores["kid"].value
    assert after["mine"].provenance["sources"] != before["mine"].provenance["sources"]
    capsys.readouterr()
    assert runner.run(asked) == 0
    assert "older code" not in capsys.readouterr().err


def test_comments_and_docstrings_are_no_other_code(mine, asked, capsys):
    mine(CODE)
    assert runner.run(asked) == 0
    capsys.readouterr()
    mine(
        CODE.replace("Shifts the output", "Moves it").replace("    def", "    # a comment\n    def")
    )
    assert runner.run(asked) == 0
    assert "older code" not in capsys.readouterr().err


def test_an_attack_that_changed_is_trained_again(asked, mine, monkeypatch):
    mine(CODE)
    assert runner.run(asked) == 0
    CALLS.clear()
    read = sources._read

    def other(path, module):
        code, imported = read(path, module)
        return ("other", imported) if module == "fakes" else (code, imported)

    monkeypatch.setattr(sources, "_read", other)
    assert runner.run(change(asked, renew=True)) == 0
    assert CALLS == ["attack 0"]
