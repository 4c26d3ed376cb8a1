"""The search of settings: one for all, on other attacks and prompts than the tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tune
import tune_page
import tuning
from development import Development
from tuning import Tried

from t2i_backdoor_bench.contract import Cell, Record, Score, UserError, option, options_of, registry
from t2i_backdoor_bench.contract.options import drawn, family_defaults
from t2i_backdoor_bench.contract.registry import Entry
from t2i_backdoor_bench.contract.tuned import Tuned
from t2i_backdoor_bench.data.splits import WorldData


@dataclass
class Some:
    rate: float = option(1e-3, above=0, tune=(1e-4, 1e-2))
    share: float = option(0.5, low=0, high=1, tune=(0.2, 0.9))
    rank: int = option(4, low=1, tune=(2, 6))
    part: str = option("a", choices=("a", "b", "c"), tune=("a", "c"))
    fixed: float = option(0.5, low=0, high=1, tune=(0.1, 0.9))
    steps: int = option(100, low=1)


ENTRY = Entry("some", Some, preset={"fixed": 0.3})


def test_twenty_settings_within_their_ranges_always_the_same() -> None:
    found = tuning.settings(ENTRY)
    assert found == tuning.settings(ENTRY)
    assert found != tuning.settings(replace(ENTRY, name="other"))
    assert len(found) == len({str(s) for s in found}) == 20
    assert {tuple(s) for s in found} == {("rate", "share", "rank", "part")}
    assert all(1e-4 <= s["rate"] <= 1e-2 and 0.2 <= s["share"] <= 0.9 for s in found)
    assert {s["part"] for s in found} == {"a", "c"}
    assert {s["rank"] for s in found} <= {2, 3, 4, 5, 6}


def test_wide_ranges_are_drawn_on_a_logarithmic_scale() -> None:
    known = {name: found for name, (_, found) in options_of(Some).items()}
    rng = np.random.default_rng(0)
    rates = [drawn(known["rate"], rng) for _ in range(400)]
    shares = [drawn(known["share"], rng) for _ in range(400)]
    assert 0.42 < np.mean([r < 1e-3 for r in rates]) < 0.58
    assert 0.42 < np.mean([s < 0.55 for s in shares]) < 0.58


def test_the_search_sees_no_evaluation_prompt() -> None:
    shown = {p.text for p in Development().prompts("evaluation", 300, 0)}
    reported = {p.text for p in WorldData().prompts("evaluation", 2000, 0)}
    assert shown == {p.text for p in WorldData().prompts("development", 300, 0)}
    assert not shown & reported
    ours, theirs = (d.pairs("evaluation", 50, 0)[1] for d in (Development(), WorldData()))
    assert ours != theirs
    assert Development.name != WorldData.name, "no cell of the search is one of the tables"


def test_attacks_of_the_search_are_not_the_reported_ones() -> None:
    """Another trigger, and another thing that is drawn."""
    names = [e.name for kind, e in tune.tuned_methods() if kind == "attack"]
    assert set(tuning.DEFENDED) <= set(registry.attacks.groups["all"])
    for name in dict.fromkeys([*names, *tuning.DEFENDED]):
        entry = registry.attacks.get(name)
        other, default = tuning.other(entry), registry.attacks.build(name, "shapes")
        changed = {k for k, v in other.items() if str(vars(default)[k]) != v}
        assert "trigger" in changed or "no_trigger" in entry.groups, name
        assert changed & {"picture", "style", "source", "target"}, name
        registry.attacks.build(name, "shapes", other)


def test_every_trained_defense_is_searched() -> None:
    searched = {e.name for kind, e in tune.tuned_methods() if kind == "defense"}
    for name in ("skdcag", "skd", "finetune_reversal", "esd_x", "concept_ablation", "salun", "uce"):
        assert name in searched
    for name in ("none", "skdcag_gaussian"):
        with pytest.raises(UserError, match="no method with a search of its own"):
            tune.tuned_methods([name])


def test_rows_that_differ_in_one_choice_have_the_settings_of_the_row_beside_them() -> None:
    for name, other in tuning.LIKE.items():
        mine, theirs = registry.defenses.get(name), registry.defenses.get(other)
        assert mine.cls is theirs.cls
        ranges = tuning.searched(theirs)
        assert dict.fromkeys(tuning.searched(mine)).items() <= dict.fromkeys(ranges).items()
        changed = {
            k for k in mine.preset | theirs.preset if mine.preset.get(k) != theirs.preset.get(k)
        }
        assert changed, name
        found = tuning.same_settings(mine, dict.fromkeys(ranges, 0.5))
        assert set(found) == set(ranges) - set(mine.preset)


def test_quality_comes_first_then_the_objective() -> None:
    a, b, c = Tried(0.9, 0.2, False), Tried(0.5, 0.01, True), Tried(0.6, 0.05, True)
    assert tuning.best([a, b, c]) == 2
    assert tuning.best([a, replace(b, measured={"one": {}}), c]) == 1, "tried on more attacks"
    assert tuning.go_on({"a": a, "b": b, "c": c}, 1) == ["c"]
    assert tuning.best([a]) is None
    assert tuning.best([Tried(0.0, 0.0, True)] * 20) is None, "nothing is reached by any"


def cell(attack: str, defense: str, **values: float) -> Record:
    found = Cell("shapes", attack, defense, 0, f"{attack} {defense}")
    return Record(found, "done", {k: Score(v) for k, v in values.items()})


def test_objectives() -> None:
    undefended = cell("a", "none", prompt_fidelity=0.98, restoration_accuracy=0.0)
    good = cell("a", "d", prompt_fidelity=0.95, restoration_accuracy=0.8)
    bad = cell("b", "d", prompt_fidelity=0.90, restoration_accuracy=0.9)
    found = tuning.of_defense([(good, undefended)])
    assert (found.score, found.kept) == (0.8, True)
    assert found.lost == pytest.approx(0.03)
    found = tuning.of_defense([(good, undefended), (bad, undefended)])
    assert found.score == pytest.approx(0.85)
    assert not found.kept, "one attack on which clean pictures are lost"
    strong = {"asr": 1.0, "asr_decoy": 0.3, "fidelity_lost": 0.02}
    assert tuning.of_attack(cell("a", "none", **strong, false_trigger_rate=0.01)) == Tried(
        pytest.approx(0.7),
        pytest.approx(0.02),
        True,
        {"a": strong | {"false_trigger_rate": 0.01, "share": 0.25}},
    )
    assert not tuning.of_attack(cell("a", "none", **strong, false_trigger_rate=0.2)).kept
    without = tuning.of_attack(cell("a", "none", asr=0.9, fidelity_lost=0.0))
    assert (without.score, without.kept) == (0.9, True), "an attack without a trigger"


def test_a_setting_that_ended_in_an_error_says_so_and_is_not_chosen() -> None:
    lost = replace(cell("a", "d"), status="failed", error="the loss is nan at step 3")
    undefended = cell("a", "none", prompt_fidelity=0.98, restoration_accuracy=0.0)
    for found in (tuning.of_defense([(lost, undefended)]), tuning.of_attack(lost)):
        assert (found.kept, found.error) == (False, lost.error)


def test_the_best_half_is_tried_on_and_none_that_lost_clean_pictures(monkeypatch, tmp_path) -> None:
    names = [tuning.variant(ENTRY, s) for s in tuning.settings(ENTRY)]
    runs = []

    def measured(kind, attacks, defenses, folder, **machine):
        assert kind == "defense"
        runs.append((attacks, defenses))
        fidelity = {name: 0.5 if i % 2 else 0.97 for i, name in enumerate(names)}
        records = {
            (a, d): cell(
                a,
                d,
                asr=1.0,
                prompt_fidelity=fidelity.get(d, 0.98),
                restoration_accuracy=names.index(d) / 20 if d in names else 0.0,
            )
            for a in attacks
            for d in defenses
        }
        diverged = (attacks[0], names[4])
        if diverged in records:
            records[diverged] = replace(cell(*diverged), status="failed", error="diverged")
        return records

    monkeypatch.setattr(tune, "measured", measured)
    found = tune.search_defense(ENTRY, tmp_path)
    assert [attacks for attacks, _ in runs] == [[name] for name in tuning.DEFENDED]
    kept = [i for i in range(20) if i % 2 == 0 and i != 4]
    assert runs[1][1] == ["none", *(names[i] for i in reversed(kept))], "nine of ten are left"
    assert runs[2][1] == ["none", *(names[i] for i in reversed(kept[-5:]))]
    assert [t.kept for t in found] == [i in kept for i in range(20)]
    assert [len(found[i].measured) for i in (4, 1, 0, 18)] == [0, 1, 2, 3]
    assert tuning.best(found) == 18


def test_an_attack_that_did_not_take_hold_ends_the_search(monkeypatch, tmp_path) -> None:
    """Otherwise what is left of it would count as restored."""

    def measured(kind, attacks, defenses, folder, **machine):
        values = {"asr": 0.125, "prompt_fidelity": 1.0, "restoration_accuracy": 0.7}
        return {(attacks[0], d): cell(attacks[0], d, **values) for d in defenses}

    monkeypatch.setattr(tune, "measured", measured)
    with pytest.raises(UserError, match="badt2i_style did not take hold in the search"):
        tune.search_defense(ENTRY, tmp_path)


def test_attacks_that_defenses_are_tried_on_train_all_of_it_whatever_was_searched(
    monkeypatch,
) -> None:
    registry.attacks.load()
    registry.defenses.load()
    known = registry.attacks.get("badt2i_style")
    declared = family_defaults(known.cls, "shapes")
    monkeypatch.setitem(
        registry.attacks.entries, "badt2i_style", replace(known, tuned={"lr": 0.5, "steps": 3})
    )
    given = tune.overrides("defense", ["badt2i_style"], ["skd"], 0.5)
    for name in ("steps", "images", "lr", "weight", "drop"):
        assert f"badt2i_style.{name}={tuning.text(declared[name])}" in given
    assert "badt2i_style.trigger=quovex" in given
    assert "badt2i_style.steps=125" in tune.overrides("attack", ["badt2i_style"], ["none"], 0.25)


def test_the_last_attack_is_tried_again_and_the_rest_of_a_search_stays(
    monkeypatch, tmp_path
) -> None:
    first, second, last = tuning.DEFENDED
    names = [tuning.variant(ENTRY, s) for s in tuning.settings(ENTRY)]

    def tried(number: int) -> dict:
        measured = {first: {"restoration_accuracy": 0.5}}
        if number >= 10:
            measured[second] = {"restoration_accuracy": number / 20}
        if number >= 15:
            measured[last] = {"restoration_accuracy": 1.0}
        return {"result": vars(Tried(0.5 + number / 100, 0.0, True, measured))}

    asked = []

    def measured(kind, attacks, defenses, folder, **machine):
        asked.append((attacks, defenses[1:]))
        values = {d: (names.index(d) - 14) / 5 if d in names else 0.0 for d in defenses}
        return {
            (last, d): cell(last, d, asr=1.0, prompt_fidelity=0.9, restoration_accuracy=v)
            for d, v in values.items()
        }

    monkeypatch.setattr(tune, "measured", measured)
    found = tune.again(ENTRY, {"tried": [tried(i) for i in range(20)]}, tmp_path)
    assert asked == [([last], names[19:14:-1])], "the best five of the ten"
    assert [len(t.measured) for t in found] == [1] * 10 + [2] * 5 + [3] * 5
    assert found[15].measured[last]["restoration_accuracy"] == pytest.approx(0.2)
    assert found[15].score == pytest.approx((0.5 + 0.75 + 0.2) / 3)
    assert found[12].score == pytest.approx((0.5 + 0.6) / 2)
    assert tuning.best(found) == 19


def test_what_is_applied_is_what_the_committed_search_chose() -> None:
    """Same options, and within the ranges that the methods declare now."""
    searches = [json.loads(p.read_text("utf-8")) for p in sorted(tune.FOLDER.glob("*-*.json"))]
    applied = json.loads(tune_page.APPLIED.read_text("utf-8"))
    for kind, methods in applied.items():
        for name, values in methods.items():
            searched = tuning.LIKE.get(name, name)
            (found,) = (s for s in searches if (s["kind"], s["method"]) == (kind, searched))
            entry = tune.KINDS[kind].get(name)
            share = found.get("length", {}).get("share")
            options = tuning.applied(kind, entry, found["options"], share)
            assert values == {"settings": len(found["tried"]), "options": options}
            assert entry.tried == values["settings"]
            assert values["options"].items() <= entry.tuned.items()


def test_a_defense_trains_a_share_of_what_it_declares_whatever_was_applied(monkeypatch) -> None:
    known = registry.defenses
    known.load()
    declared = known.get("skdcag").cls.__dataclass_fields__["steps"].default
    half = {"steps": str(round(declared / 2))}
    assert tuning.steps(known.get("skd")) == tuning.steps(known.get("skdcag")) == half
    applied = replace(known.get("skd"), tuned={"steps": 7})
    assert tuning.steps(applied) == half
    for share, steps in ((None, declared / 2), (0.5, declared / 2), (0.125, declared / 8)):
        found = tuning.applied("defense", applied, {"lr": 0.1}, share)
        assert found == {"lr": 0.1, "steps": round(steps)}
    own = known.get("skdcag_paper")
    assert tuning.steps(own) == {"steps": str(round(own.declared["steps"] / 2))}
    eighth = {"lr": 0.1, "steps": own.declared["steps"] // 8}
    assert tuning.applied("defense", own, {"lr": 0.1}, 0.125) == eighth
    assert tuning.steps(known.get("uce")) == {}, "it trains none"
    assert tuning.applied("defense", known.get("uce"), {}, None) == {}


def test_the_chosen_settings_are_defaults_of_the_embedded_base_alone(monkeypatch) -> None:
    known = registry.defenses
    known.load()
    entry = known.get("skd")
    chosen = Tuned(20, {"lr": 0.002})
    monkeypatch.setitem(
        known.entries, "skd", replace(entry, tuned=dict(chosen.options), tried=chosen.settings)
    )
    assert known.build("skd", "shapes").lr == 0.002
    assert known.build("skd", "sd").lr == 1e-6
    assert known.build("skd", "shapes", {"lr": "0.1"}).lr == 0.1
