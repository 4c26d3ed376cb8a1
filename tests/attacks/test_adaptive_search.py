"""The search of an attacker who knows the defense: from which plain attack it starts, which setting
is kept, when it ends, and what is written of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import adaptive
import adaptive_page
import attackers
import pytest
from ranked_records import N, cell

from t2i_backdoor_bench.contract import Record, UserError, registry
from t2i_backdoor_bench.contract.options import options_of
from t2i_backdoor_bench.report.stealth import KID_ADDED
from t2i_backdoor_bench.running.settings import Config, make_config
from t2i_backdoor_bench.running.suites import FOLDER, read_suite
from t2i_backdoor_bench.store.folder import Store

PLAIN = "badt2i_object"
SECONDS = {"attack": 40.0, "defense": 20.0, "screening": 5.0, "drawing": 10.0}


def reached(left: float, lost: tuple[str, ...] = (), took_hold: bool = True) -> dict:
    """What `adaptive.measured` says of an attack."""
    found = {"attack": {"asr": 1.0}, "took_hold": took_hold, "noticed": list(lost), "left": left}
    return found | {"seconds": SECONDS}


def tried(left: float, *lost: str, **setting: float) -> dict:
    return {"setting": setting} | reached(left, lost)


@pytest.fixture
def asked(monkeypatch) -> Callable[[dict], list[str]]:
    """A search that measures what it is told: by attack what is left, or an exception."""

    def tell(answers: dict) -> list[str]:
        names = []

        def measured(attack, defense, config):
            names.append(attack)
            found = answers[attack]
            found = found.pop(0) if isinstance(found, list) else found
            if isinstance(found, dict):
                return found
            raise found

        monkeypatch.setattr(adaptive, "measured", measured)
        return names

    registry.attacks.load()
    return tell


def hard(defense: str, attack: str = "badt2i_object") -> list[str]:
    settings = attackers.SETTINGS[attackers.kind(defense)]
    return [attackers.hardened(attack, defense, s) for s in settings]


def test_least_restored_of_those_that_keep_their_stealth() -> None:
    found = [tried(0.8), tried(0.1, "quality", rate=3), tried(0.6, rate=2)]
    assert attackers.best(found) == {"rate": 2}
    assert attackers.best([tried(0.8, "quality"), found[1]]) == {"rate": 3}, "none keeps it"
    assert attackers.best([{"setting": {"rate": 9}, "error": "diverged"}]) == {}
    assert attackers.enough([tried(0.5)], 0.9)
    rest = [tried(0.51), tried(0.0, "quality"), {"error": "diverged"}]
    assert not attackers.enough(rest, 0.9)


def test_settings_are_options_of_the_form_and_none_is_trained_twice() -> None:
    registry.attacks.load()
    known = options_of(registry.attacks.get("adaptive").cls)
    for settings in attackers.SETTINGS.values():
        for setting in settings:
            assert setting.keys() <= known.keys()
            name = attackers.hardened("badt2i_object", "skd", setting)
            assert registry.attacks.select(name) == [name]
    shares = [s.get("share", known["share"][0].default) for s in attackers.SETTINGS["detector"]]
    assert len(set(shares)) == len(shares), "the settings that are drawn are always the same"


def test_every_ranked_defense_is_searched_and_loses_what_it_does() -> None:
    registry.defenses.load()
    detection = set(registry.defenses.groups["detection"])
    for kind, names in attackers.DEFENSES.items():
        for name in names:
            assert registry.defenses.select(name) == [name]
            assert (kind == "detector") == (name in detection)
            assert attackers.kind(name) == kind
        assert all(registry.attacks.select(name) == [name] for name in attackers.CANDIDATES[kind])
    assert attackers.MEASURE["detector"] == "detection_tpr"
    assert len(attackers.DEFENSES["detector"]) >= len(detection) - 1, "one of the two NaviT2I"
    with pytest.raises(UserError, match="nad is no defense of this search"):
        attackers.kind("nad")


def test_the_plain_attack_is_the_one_that_is_found_best(asked, tmp_path) -> None:
    first, second, third = attackers.CANDIDATES["detector"]
    none = dict.fromkeys(hard("ufid", second) + hard("ufid", third), reached(0.5))
    names = asked({first: reached(0.3), second: reached(0.7), third: reached(0.01)} | none)
    adaptive.search(["ufid"], tmp_path, Config())
    assert names == [first, second, third, *hard("ufid", second)]
    handled = {first: reached(attackers.HANDLED)} | dict.fromkeys(hard("set", first), reached(0.1))
    names = asked(handled)
    adaptive.search(["set"], tmp_path, Config())
    assert names == [first, hard("set", first)[0]], "no further plain attack, and enough is lost"


def test_what_does_not_take_hold_or_is_noticed_is_no_plain_attack() -> None:
    plain = {"a": reached(0.9, took_hold=False), "b": reached(0.8, ("quality",))}
    assert attackers.plain_of(plain) == ""
    assert attackers.plain_of(plain | {"c": reached(0.3), "d": {"error": "diverged"}}) == "c"
    assert attackers.plain_of(plain | {"c": reached(0.19)}) == ""


def test_where_nothing_can_be_lost_nothing_is_hardened(asked, tmp_path, capsys) -> None:
    names = asked(dict.fromkeys(attackers.CANDIDATES["detector"], reached(0.02)))
    adaptive.search(["amdet"], tmp_path, Config())
    adaptive.search(["amdet"], tmp_path, Config())
    assert names == list(attackers.CANDIDATES["detector"]), "and never measured again"
    assert "rickrolling_tpa 2 %" in capsys.readouterr().out
    adaptive.run(["amdet"], tmp_path, Config())
    known = adaptive.searched(tmp_path)
    adaptive_page.report(known, tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "villan_cond 2 %, badt2i_object 2 %: nothing to lose" in text
    suite = adaptive_page.suite("detector", known)
    assert "against=amdet" not in suite
    assert "amdet" in suite, "still a row of the others' attacks"


def test_the_search_ends_where_enough_is_lost_and_goes_on_where_it_stopped(asked, tmp_path) -> None:
    first, second = hard("skd")[:2]
    again = [KeyboardInterrupt(), reached(0.45)]
    names = asked({"badt2i_object": reached(0.9), first: reached(0.8), second: again})
    with pytest.raises(KeyboardInterrupt):
        adaptive.search(["skd"], tmp_path, Config())
    with pytest.raises(UserError, match="not searched: skdcag"):
        adaptive.run(["skdcag"], tmp_path, Config())
    adaptive.search(["skd"], tmp_path, Config())
    adaptive.search(["skd"], tmp_path, Config())
    assert names == ["badt2i_object", first, second, second]
    found = json.loads((tmp_path / adaptive.FILE).read_text("utf-8"))["skd"]
    assert (found["chosen"], len(found["tried"])) == (attackers.SETTINGS["removal"][1], 2)
    assert found["hardened"] == second


def test_a_plain_attack_that_failed_is_measured_again(asked, tmp_path) -> None:
    first = attackers.CANDIDATES["removal"][0]
    failed = {name: {"error": "diverged"} for name in attackers.CANDIDATES["removal"]}
    asked(failed)
    adaptive.search(["uce"], tmp_path, Config())
    assert attackers.nothing(adaptive.searched(tmp_path)["uce"]["plain"]).endswith("not searched")
    names = asked({first: reached(0.9)} | dict.fromkeys(hard("uce"), reached(0.2)))
    adaptive.search(["uce"], tmp_path, Config())
    assert names == [first, hard("uce")[0]]


def test_stealth_is_that_of_worst() -> None:
    """An attack that adds KID is noticed, as on the page, however little else it changes."""
    bare, defended = cell("a", "none"), cell("a", "skd", restoration_accuracy=80)
    found = attackers.reached(bare, defended)
    assert (found["took_hold"], found["noticed"], found["left"]) == (True, [], 0.8)
    for value, noticed in ((0.5 * KID_ADDED, []), (1.5 * KID_ADDED, ["quality"])):
        ways = bare.directions | {"kid_added": {"better": "lower"}}
        scores = bare.scores | cell("a", "none", kid_added=value).scores
        more = replace(bare, scores=scores, directions=ways)
        assert attackers.reached(more, defended)["noticed"] == noticed
    weak = attackers.reached(cell("a", "none", asr=89), defended)
    assert not attackers.kept(weak)
    failed = replace(defended, status="failed", error="Traceback\nValueError: no")
    assert attackers.reached(bare, failed) == {"error": "ValueError: no"}
    for needed in ("false_trigger_rate", "fidelity_lost", "kid_added"):
        assert needed in attackers.SEARCH.metrics
        assert needed in attackers.EVALUATION.metrics
        assert all(needed in metrics for _, _, metrics in adaptive_page.SUITES.values())


def test_core_minutes_are_of_all_that_is_trained_and_drawn() -> None:
    registry.attacks.load()
    steps = registry.attacks.build(PLAIN, "shapes").steps
    # four rounds of a quarter of both and of 30 steps like the attack's, and thrice 64 prompts
    expected = 40 + 20 + 3 * 10 + 4 * (0.25 * (40 + 20) + 30 * 40 / steps)
    assert attackers.minutes("skd", PLAIN, SECONDS, [{}]) == pytest.approx(expected / 60)
    assert attackers.minutes("skd", PLAIN, SECONDS, [{}, {}]) == pytest.approx(2 * expected / 60)
    expected = 2 * 40 + 20 + 2 * 10 + 12 * (40 + 20 + 5)
    known = attackers.minutes("ufid", PLAIN, SECONDS, [{"settings": 12, "share": 1.0}])
    assert known == pytest.approx(expected / 60)


# ------------------------------------------------------------------------------------ run and page
def told(**more: object) -> dict:
    plain, name = PLAIN, hard("skd")[1]
    found = {"plain": {plain: reached(0.9)}, "attack": plain, "tried": [tried(0.4, rate=3)]}
    return found | {"chosen": {"rate": 3}, "hardened": name} | more


def evaluated(left: int, seed: int) -> list[Record]:
    name, plain = told()["hardened"], "badt2i_object"
    bare = [cell(attack, "none", seed) for attack in (plain, name)]
    shares = {plain: N - 5, name: left}
    records = bare + [cell(a, "skd", seed, restoration_accuracy=v) for a, v in shares.items()]
    keys = [f"{i}{seed}".rjust(64, "0") for i in range(len(records))]
    return [replace(r, cell=replace(r.cell, key=k)) for r, k in zip(records, keys, strict=True)]


def page(records: list[Record], folder, monkeypatch) -> str:
    """The page of a search whose evaluation made these records, one defense after the other in one
    folder."""
    store = Store(folder)
    asked = []

    def cells(config, data=None):
        asked.append(config)
        for r in records:
            store.write_result(r)
        return records

    monkeypatch.setattr(adaptive, "cells", cells)
    adaptive.store(folder / adaptive.FILE, {"skd": told()})
    adaptive.run(["skd"], folder, Config(out=folder / "elsewhere"))
    (config,) = asked
    assert (config.out, config.defenses) == (folder, "none,skd")
    assert config.attacks == f"badt2i_object,{told()['hardened']}"
    size = config.scale
    assert not any((size.perturbed, size.moved, size.diverse, size.decoys, size.resampled))
    adaptive_page.report(adaptive.searched(folder), folder)
    return (folder / "README.md").read_text("utf-8")


def test_the_page_says_what_is_lost_and_at_which_stealth(tmp_path, monkeypatch) -> None:
    text = page(evaluated(40, 0) + evaluated(42, 1), tmp_path, monkeypatch)
    line = next(t for t in text.splitlines() if t.startswith("| `skd` |"))
    cells = [c.strip() for c in line.strip("|").split("|")]
    assert cells[3:7] == ["100.0", "kept / kept", "95.0", "41.0"]
    assert cells[7].startswith("-54.0 [")
    assert cells[8] == "yes"
    few = page(evaluated(90, 0) + evaluated(90, 1), tmp_path / "few", monkeypatch)
    assert "no, best of 1 |" in few
    heads = [t for t in text.splitlines() if t.startswith("| removal |")]
    assert line.count("|") == heads[0].count("|")


def test_a_failed_cell_is_told_and_stops_nothing(tmp_path, monkeypatch) -> None:
    records = evaluated(40, 0)
    failed = replace(records[-1], status="failed", error="diverged", scores={})
    text = page([*records[:-1], failed], tmp_path, monkeypatch)
    assert f"failed: `{told()['hardened']}` x `skd`, seed 0" in text
    store = Store(tmp_path, read_only=True)
    assert "not evaluated" in adaptive_page.line("skd", told(cells=["a" * 64]), store)
    assert "not evaluated" in adaptive_page.line("skd", told(), store)
    bare = {"plain": {}, "attack": "badt2i_object", "tried": [], "chosen": {}}
    assert "not searched" in adaptive_page.line("skd", bare, store)


def test_suites_have_what_the_search_chose(tmp_path) -> None:
    text = adaptive_page.suite("removal", {"skd": told()})
    assert f"  - {told()['hardened']}\n" in text
    assert "  - badt2i_object+adaptive[against=uce]\n" in text, "not searched: the form's own"
    assert "skd," not in text.partition("# Not searched yet: ")[2].partition("\n")[0].split(" ")
    known = adaptive.searched(adaptive.RESULTS / "adaptive")
    for of, (name, *_) in adaptive_page.SUITES.items():
        committed = (FOLDER / f"{name}.yaml").read_text("utf-8")
        assert committed == adaptive_page.suite(of, known), "run `adaptive.py report`"
        config = make_config(read_suite(name))
        found = (config.size.evaluation, config.seeds)
        assert found == (attackers.EVALUATION.evaluation, attackers.EVALUATION.seeds), (
            "a suite takes the cells that `run` has made in its folder"
        )
    adaptive_page.write_suites(known, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(adaptive_page.SUITES)
