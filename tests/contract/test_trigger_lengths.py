"""How long attacks train with the triggers of a suite (benchmarks/trigger_lengths.py)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import load_script

from t2i_backdoor_bench.contract import names, registry
from t2i_backdoor_bench.running.suites import read_suite

script = load_script(Path(__file__).resolve().parents[2] / "benchmarks" / "trigger_lengths.py")
INVISIBLE = "badt2i_style[trigger=\u200b]"


@pytest.fixture(autouse=True)
def known() -> None:
    registry.attacks.load()


def test_steps_are_a_share_of_those_declared() -> None:
    assert script.lasting(INVISIBLE, 0.25) == "badt2i_style[trigger=\u200b,steps=125]"
    assert script.without_steps(script.lasting(INVISIBLE, 0.5)) == INVISIBLE
    edit = "eviledit[trigger=beautiful star,replaces=star]"
    assert script.lasting(edit, 0.5) == edit, "it trains no steps"


@pytest.mark.parametrize(
    ("reached", "share", "tried"),
    [
        ((0.95,), 0.25, 1),
        ((0.3, 0.9), 0.5, 2),
        ((0.3, None, 0.5), 1.0, 3),  # a training that diverged, and one that never takes hold
    ],
)
def test_the_least_share_that_takes_hold(monkeypatch, tmp_path, reached, share, tried) -> None:
    asked = []

    def attempt(attack, folder):
        asr = reached[len(asked)]
        asked.append(attack)
        if asr is None:
            return SimpleNamespace(status="failed", error="diverged", scores={})
        return SimpleNamespace(
            status="done", error="", scores={"asr": SimpleNamespace(value=asr)}, cell=None
        )

    monkeypatch.setattr(script, "attempt", attempt)
    found = script.length(INVISIBLE, tmp_path)
    assert (found["share"], len(found["reached"]), len(asked)) == (share, tried, tried)
    assert script.line(INVISIBLE, found).startswith(script.lasting(INVISIBLE, share))


def test_the_suite_trains_as_long_as_was_found() -> None:
    path = script.FOLDER / script.TRIGGERS
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for attack in read_suite("reference")["attacks"]:
        name, options = names.read(attack)
        plain = script.without_steps(attack)
        if plain not in found or plain == name:
            continue  # not measured, or with the trigger of `tune.py lengths`
        length = script.tuning.shortened(registry.attacks.get(name), found[plain]["share"])
        assert {k: options.get(k) for k in length} == {k: str(v) for k, v in length.items()}
