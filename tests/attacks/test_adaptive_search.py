"""The search of an attacker who knows the removal: which setting is kept, and when it ends."""

from __future__ import annotations

import json

import adaptive
import pytest

from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.options import options_of
from t2i_backdoor_bench.running.settings import Config


def tried(left: float, kept: bool = True, **setting: float) -> dict:
    return {"setting": setting, "kept": kept, "left": left, "plain": 0.9}


def test_least_restored_of_those_that_keep_their_stealth() -> None:
    found = [tried(0.8), tried(0.1, kept=False, rate=3), tried(0.6, rate=2)]
    assert adaptive.best(found) == {"rate": 2}
    assert adaptive.best([tried(0.8, kept=False), found[1]]) == {"rate": 3}, "none keeps it"
    assert adaptive.best([{"setting": {"rate": 9}, "error": "diverged"}]) == {}
    assert adaptive.enough([tried(0.5)])
    assert not adaptive.enough([tried(0.51), tried(0.0, kept=False), {"error": "diverged"}])


def test_settings_are_options_of_the_form() -> None:
    registry.attacks.load()
    known = options_of(registry.attacks.get("adaptive").cls)
    for setting in adaptive.SETTINGS + adaptive.UNSEEN:
        assert setting.keys() <= known.keys()
    assert adaptive.hardened("skd", {"rate": 2, "share": 0.5}) == (
        "badt2i_object+adaptive[against=skd,rate=2,share=0.5]"
    )


def test_detectors_lose_what_they_find_and_removals_what_they_restore() -> None:
    registry.defenses.load()
    detection = set(registry.defenses.groups["detection"])
    for name in adaptive.RANKED + adaptive.DETECTORS:
        assert registry.defenses.select(name) == [name]
        found = adaptive.measure(name) == "detection_tpr"
        assert found == (name in detection)
    chosen = f"badt2i_object+adaptive[against={adaptive.RANKED[-1]}]"
    assert registry.attacks.select(chosen) == [chosen]
    assert len(adaptive.DETECTORS) >= len(detection) - 1, "one of the two NaviT2I"


def test_the_search_ends_where_enough_is_lost_and_goes_on_where_it_stopped(
    monkeypatch, tmp_path
) -> None:
    reached = [0.8, KeyboardInterrupt, 0.45, 0.0]
    asked = []

    def try_setting(defense, setting, config):
        asked.append(setting)
        now = reached.pop(0)
        if isinstance(now, float):
            return {**tried(now), "setting": setting}
        raise now

    monkeypatch.setattr(adaptive, "try_setting", try_setting)
    with pytest.raises(KeyboardInterrupt):
        adaptive.search(["skd"], tmp_path, Config())
    adaptive.search(["skd"], tmp_path, Config())
    adaptive.search(["skd"], tmp_path, Config())
    first, second = adaptive.SETTINGS[:2]
    assert asked == [first, second, second]
    found = json.loads((tmp_path / adaptive.FILE).read_text("utf-8"))["skd"]
    assert (found["chosen"], len(found["tried"])) == (second, 2)
