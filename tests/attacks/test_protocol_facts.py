"""What an attack says of the conditions under which it is made and judged."""

from __future__ import annotations

import pytest
from fakes import SCALE, FakeAttack

from t2i_backdoor_bench.contract import Backdoor, Target, Trigger, attacks, registry
from t2i_backdoor_bench.running.attack_facts import NOT_STATED, attack_facts, chosen_by
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config

attacks.load()
NAMES = sorted(n for n, e in attacks.entries.items() if "t2i_backdoor_bench.attacks" in str(e.cls))
SHARES = {
    "badt2i_pixel": 0.5,  # the weight of the triggered term: every picture serves both
    "bibaddiff": 0.1,  # of the pictures
    "rickrolling_tpa": 32 / (128 + 32),  # of the rows of a step
    "iba": 5 / 11,
    "villan_cond": 0.5,  # 1 / (1 + w)
    "paas_db": 1 / 1.5,
    "paas_ti": 1.0,
    "sembd": 0.5,
    "masqlora": 0.46,
    "eviledit": None,
    "checkpoint": None,
}
BACKDOOR = Backdoor(Trigger("mignneko"), Target("style", style="sepia"))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("checkpoint", "suspect")])
def test_every_attack_says_what_its_paper_evaluates_with_and_who_chose_its_settings(
    name: str,
) -> None:
    entry = attacks.get(name)
    assert entry.evaluates
    assert entry.settings or chosen_by(entry.cls) != NOT_STATED
    if entry.own:
        assert entry.evaluates != "captions"
    if entry.evaluates == "a prompt of its own":
        assert entry.own


@pytest.mark.parametrize("name", SHARES)
def test_the_share_of_the_training_that_has_the_trigger(name: str) -> None:
    assert attacks.build(name, "sd").poison_share == pytest.approx(SHARES[name])


def test_an_option_changes_the_share() -> None:
    built = attacks.build("villan_cond", "sd", {"weight": "3"})
    assert built.poison_share == pytest.approx(0.25)
    assert attacks.build("poison_pixel", "sd", {"weight": "0.2"}).poison_share == 0.2


def facts(tiny: str, tmp_path, names: str, row: str, *overrides: str) -> dict:
    config = Config(names, "none", tiny, SCALE, out=tmp_path / "run", overrides=overrides)
    return attack_facts(plan(config), row, BACKDOOR, ["a red star"])


def weight_of(name: str) -> float:
    return registry.attacks.build(name, "shapes").weight


def test_the_facts_of_a_record(tiny, tmp_path) -> None:
    found = facts(tiny, tmp_path, "badt2i_pixel", "badt2i_pixel")
    assert found == {
        "trigger_kind": "rare word",
        "trigger": "mignneko",
        "poison_share": weight_of("badt2i_pixel"),
        "evaluates_with": "captions",
        "settings_by": "ours, chosen on the development split",
    }
    changed = facts(tiny, tmp_path, "badt2i_pixel", "badt2i_pixel", "badt2i_pixel.weight=0.1")
    assert changed["poison_share"] == 0.1
    assert changed["settings_by"] == "ours, chosen on the development split; by the user: weight"


def test_a_row_of_combined_attacks_has_the_facts_of_its_own_backdoor(tiny, tmp_path) -> None:
    names = "badt2i_style+rickrolling_tpa[trigger=zebra]"
    rows = [f"{names}#{i}" for i in (1, 2)]
    first, second = (facts(tiny, tmp_path, names, row) for row in rows)
    assert first["poison_share"] == weight_of("badt2i_style")
    assert second["poison_share"] == pytest.approx(1 / 3)
    assert first["settings_by"] == "ours, chosen on the development split"
    assert second["settings_by"].endswith("by the user: trigger")


def test_of_a_model_that_was_attacked_elsewhere_nothing_is_claimed(tiny, tmp_path) -> None:
    found = facts(tiny, tmp_path, "suspect[trigger=zebra]", "suspect[trigger=zebra]")
    assert found["poison_share"] is None
    assert (found["evaluates_with"], found["settings_by"]) == ("not stated", "whoever made it")


def test_an_attack_that_states_nothing_has_nothing_said_for_it(
    tiny, tmp_path, clean_registry
) -> None:
    registry.register_attack("fake_attack")(FakeAttack)
    found = facts(tiny, tmp_path, "fake_attack", "fake_attack")
    assert (found["evaluates_with"], found["settings_by"]) == ("not stated", "not stated")
