"""How long methods train: attacks until they take hold, defenses until they restore."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tune
import tune_page
import tuning

from t2i_backdoor_bench.contract import Cell, Record, Score, registry
from t2i_backdoor_bench.contract.tuned import Tuned


def cell(attack: str, defense: str, **values: float) -> Record:
    found = Cell("shapes", attack, defense, 0, f"{attack} {defense}")
    return Record(found, "done", {k: Score(v) for k, v in values.items()})


def searched(**measured: float) -> dict:
    """The record of a search that chose its first setting, which reached this."""
    result = {"measured": {"attack": measured}}
    return {"chosen": 0, "options": {"lr": 0.1}, "tried": [{"result": result}]}


@pytest.mark.parametrize(
    ("holds", "share", "tried"), [(125, 0.25, 1), (250, 0.5, 2), (500, 1.0, 3), (501, 1.0, 3)]
)
@pytest.mark.parametrize("least", [None, 0.25, 0.5, 1.0])
def test_an_attack_trains_until_it_takes_hold(
    monkeypatch, tmp_path, holds: int, share: float, tried: int, least: float | None
) -> None:
    registry.attacks.load()
    entry = registry.attacks.get("badt2i_style")
    asked = []

    def measured(kind, attacks, defenses, folder, size, **machine):
        assert (kind, defenses, size.training) == ("attack", ["none"], 1)
        steps = int(attacks[0].partition("steps=")[2].rstrip("]").partition(",")[0])
        asked.append(steps)
        return {(attacks[0], "none"): cell(attacks[0], "none", asr=0.9 if steps >= holds else 0.89)}

    monkeypatch.setattr(tune, "measured", measured)
    path = tmp_path / "attack-badt2i_style.json"
    tune.store(path, searched(asr=0.5) if least is None else searched(asr=0.5, share=least))
    for _ in range(2):
        tune.lengths(["badt2i_style"], tmp_path, tmp_path)
    left = max(500 * (least or 0.25), 125)  # what failed in the search is not tried again
    assert asked == ([n for n in [125, 250, 500][:tried] if n >= left] or [left]), "and once"
    found = json.loads(path.read_text("utf-8"))["length"]
    share = max(share, least or 0)
    assert (found["share"], len(found["reached"])) == (share, len(asked))
    steps = {} if share == 1 else {"steps": 500 * share}
    assert tuning.applied("attack", entry, {"lr": 0.1}, share) == {"lr": 0.1} | steps


def test_the_search_of_an_attack_trains_a_quarter_whatever_was_applied(monkeypatch) -> None:
    registry.attacks.load()
    entry = registry.attacks.get("split")
    assert tuning.shortened(entry, 0.5) == {"steps": 200, "text_steps": 75}
    assert tuning.shortened(registry.attacks.get("eviledit"), 0.5) == {}
    monkeypatch.setattr(tuning, "tuned", lambda kind, name: Tuned(20, {"lr": 0.1}))
    assert tuning.part(entry, 0.25) == {}, "the scale makes it"
    monkeypatch.setattr(tuning, "tuned", lambda kind, name: Tuned(20, {"steps": 7}))
    assert tuning.part(entry, 0.25) == {"steps": "100", "text_steps": "38"}


@pytest.mark.parametrize(
    ("restored", "fidelity", "share"),
    [
        ((0.9, 0.95, 0.9), (0.98, 0.98, 0.98), 0.125),
        ((0.87, 0.89, 0.9), (0.98, 0.98, 0.98), 0.25),
        ((0.87, 0.87, 0.9), (0.98, 0.98, 0.98), 0.5),
        ((0.9, 0.9, 0.9), (0.9, 0.98, 0.98), 0.25),
    ],
    ids=["an eighth restores as much", "a quarter", "neither", "an eighth loses clean pictures"],
)
def test_a_defense_trains_the_least_that_restores_about_as_much(
    restored, fidelity, share, monkeypatch, tmp_path
) -> None:
    registry.defenses.load()
    entry = replace(registry.defenses.get("skd"), tuned={"steps": 7})
    steps = [int(tuning.steps(entry, s)["steps"]) for s in tuning.LENGTHS["defense"]]
    names = [f"skd[lr=0.1,steps={n}]" for n in steps]

    def measured(kind, attacks, defenses, folder, **machine):
        assert (kind, defenses) == ("defense", ["none", *names])
        found = {"none": (0.0, 0.98)} | dict(
            zip(names, zip(restored, fidelity, strict=True), strict=True)
        )
        return {
            (attacks[0], d): cell(attacks[0], d, restoration_accuracy=r, prompt_fidelity=f)
            for d, (r, f) in found.items()
        }

    monkeypatch.setattr(tune, "measured", measured)
    found = tune.defense_length(entry, {"options": {"lr": 0.1}}, tmp_path)
    assert found["share"] == share
    assert list(found["reached"]) == ["0.125", "0.25", "0.5"]
    assert list(found["reached"]["0.5"]["measured"]) == list(tuning.DEFENDED)


@pytest.mark.parametrize(("learns", "shares"), [(0.25, 1), (0.5, 2), (1.0, 3), (2.0, 3)])
def test_settings_of_an_attack_that_learns_with_none_are_tried_with_more_steps(
    learns: float, shares: int, monkeypatch, tmp_path
) -> None:
    registry.attacks.load()
    entry = registry.attacks.get("poison_lora")
    names = [tuning.variant(entry, s) for s in tuning.settings(entry)]
    asked, many = [], []

    def measured(kind, attacks, defenses, folder, size, **machine):
        asked.append(size.training)
        many.append(len(attacks))
        found = {a: 0.1 * (a == names[7]) for a in attacks}
        found[names[7]] += 0.4 * (size.training >= learns)
        return {
            (a, "none"): cell(a, "none", asr=v, fidelity_lost=0.0, false_trigger_rate=0.0)
            for a, v in found.items()
        }

    monkeypatch.setattr(tune, "measured", measured)
    found = tune.search_attack(entry, tmp_path)
    assert asked == [0.25, 0.5, 1.0][:shares]
    assert len(found) == 20
    assert many == [20, 10, 5][:shares], "successive halving"
    assert found[7].measured["poison_lora"]["share"] == asked[-1]
    assert sum(t.measured["poison_lora"]["share"] == asked[-1] for t in found) == many[-1]
    assert found[7].learnt is (learns <= 1)
    kept = tuning.record("attack", entry, found)
    assert kept["chosen"] == (7 if learns <= 1 else None), "it keeps its defaults"
    assert bool(kept["options"]) == (learns <= 1)


def test_an_attack_is_applied_once_its_length_is_known() -> None:
    registry.attacks.load()
    found = {"kind": "attack", "method": "masqlora", "options": {"lr": 0.1}, "tried": [{}] * 20}
    found["chosen"] = 3
    assert tune_page.defaults_of("attack", [found]) == {}
    assert tune_page.not_applied([found], ["attack"])[0].endswith("no default yet: `masqlora`.")
    known = tune_page.defaults_of("attack", [found | {"length": {"share": 0.5}}])
    assert known["masqlora"]["options"]["lr"] == 0.1
    assert known["masqlora"]["settings"] == 20


def test_an_attack_of_which_nothing_is_chosen_does_not_wait() -> None:
    registry.attacks.load()
    found = {"kind": "attack", "method": "poison_lora", "options": {}, "tried": [{}] * 20}
    found["chosen"] = None
    assert tune_page.defaults_of("attack", [found])["poison_lora"] == {
        "settings": 20,
        "options": {},
    }
    assert tune_page.not_applied([found], ["attack"]) == []
    assert tune_page.not_applied([found], []) == []
