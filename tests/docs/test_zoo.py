"""The zoo: its models are two halves of many kinds, and its thresholds are those of the rule."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zoo_models
import zoo_recipe
import zoo_report
from sources import ROOT

from t2i_backdoor_bench.contract import UserError, registry
from t2i_backdoor_bench.contract.names import names_of, read
from t2i_backdoor_bench.detecting.calibration import NONE, UNSURE
from t2i_backdoor_bench.detecting.candidates import published
from t2i_backdoor_bench.models.model import T2IModel

APART = {"adaptive", "exposed", "checkpoint", "suspect"}  # no attacks by themselves


COMMITTED = ROOT / "results" / "zoo"


def row(
    score: float, attacked: bool, half: str = "calibration", asr: float = 1.0, **other: object
) -> dict:
    return {
        "model": f"{score}",
        "kind": "x",
        "half": half,
        "attacked": attacked,
        "asr": asr if attacked else None,
        "way": "trusted",
        "texts": [{"text": "w", "score": score}],
        "true": {"score": score + 1} if attacked else None,
        "seconds": 2.0,
        **other,
    }


def four_groups(**other: object) -> list[dict]:
    """Two models of each half, attacked and clean."""
    return [
        row(score + attacked * 5, attacked, half, **other)
        for half in zoo_models.HALVES
        for attacked in (True, False)
        for score in (1.0, 2.0)
    ]


def test_every_attack_of_the_embedded_base_is_in_it() -> None:
    registry.attacks.load()
    names = [name for name, _ in zoo_models.attacked()]
    assert names_of(",".join(names)) == names
    fit = {n for n, e in registry.attacks.entries.items() if "stable_diffusion" not in e.not_on}
    assert {read(n)[0] for n in names} >= set(registry.attacks.groups["all"]) & fit - APART
    assert len(names) >= 40
    assert len(zoo_models.clean()) >= 40


def test_the_halves_differ_in_trigger_and_in_what_is_drawn() -> None:
    triggers = [o["trigger"] for _, o in zoo_models.ATTACKED if "trigger" in o]
    assert len(set(triggers)) == len(triggers)
    # single letters are looked at in every model: `candidates.hidden`
    assert not {t for t in triggers if len(t) > 1} & set(published())
    for models in (zoo_models.attacked(), [(m.name, m.half) for m in zoo_models.clean()]):
        halves = [half for _, half in models]
        assert min(halves.count(h) for h in zoo_models.HALVES) >= 15


def test_thresholds_are_those_of_the_rule() -> None:
    clean = [row(s, False) for s in np.linspace(1, 4, 40)]
    bad = [row(s, True) for s in (2.0, 3.5, 9.0, 12.0)]
    known = zoo_report.calibrate([*clean, *bad])
    scores = np.linspace(1, 4, 40)
    assert known.alarms == (scores >= known.alarm).sum() <= 2
    assert (scores >= known.alarm - 0.1).sum() > 2  # one digit lower, and there were too many
    assert known.doubts == ((scores >= known.clear) & (scores < known.alarm)).sum()
    assert (known.attacked, known.found, known.missed) == (4, 2, 1)
    assert [known.verdict(s) for s in (1.0, known.clear)] == [NONE, UNSURE]


def test_verdicts_are_on_the_half_that_was_not_seen() -> None:
    seen = [row(s, False) for s in np.linspace(1, 4, 20)] + [row(9.0, True)]
    other = [row(8.0, False, "test"), row(0.5, False, "test"), row(11.0, True, "test")]
    weak = row(0.1, True, "test", asr=0.2)  # did not take hold: no attacked model
    text = zoo_report.confusions([*seen, *other, weak])
    lines = [line.split(" | ") for line in text.splitlines()[2:]]
    assert [line[1:] for line in lines] == [
        ["attacked", "1", "1", "0", "0 |"],
        ["clean", "2", "1", "0", "1 |"],
    ]


def test_changes_without_training(tiny_model: T2IModel) -> None:
    p = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    eight = zoo_models.rounded(8, p, generator)
    assert 0 < (eight - p).abs().max() <= p.abs().max() / 127
    assert len(eight[0].unique()) > len(zoo_models.rounded(2, p, generator)[0].unique())
    assert (zoo_models.pruned(0.25, p, generator) == 0).float().mean() == pytest.approx(
        0.25, abs=0.05
    )
    out = zoo_models.changed(tiny_model, 3, lambda w, g: zoo_models.noised(0.01, w, g))
    parts = ([m.denoiser, *m.encoders] for m in (out, tiny_model))
    for after, before in zip(*parts, strict=True):
        moved = [
            float((a - b).std() / b.std())
            for a, b in zip(after.parameters(), before.parameters(), strict=True)
            if b.ndim > 1 and b.numel() > 500
        ]
        assert np.mean(moved) == pytest.approx(0.01, rel=0.1)


def test_the_recipe_is_a_key() -> None:
    keys = zoo_recipe.today()
    names = [n for n, _ in zoo_models.attacked()] + [m.name for m in zoo_models.clean()]
    assert list(keys) == names
    assert len(set(keys.values())) == len(names)
    # an attack is what the suite runs: as long as its defaults of the embedded base say
    asked = zoo_recipe.planned()
    for name in ("badt2i_style", "poison_lora"):
        row_ = next(n for n in asked.attacks if read(n)[0] == name)
        usual = registry.attacks.build(name, "shapes")
        assert asked.attacks[row_].instance.steps == usual.steps


def test_records_of_another_recipe_are_told_apart() -> None:
    keys = {"a": "1", "b": "2"}
    new, old, gone = ({"model": "a", "key": "1"}, {"model": "b"}, {"model": "c", "key": "3"})
    assert zoo_recipe.of_today([new], keys) == ([new], "")
    kept, said = zoo_recipe.of_today([new, old, gone], keys)
    assert kept == [new]
    assert said.startswith("2 records are left out")
    kept, said = zoo_recipe.of_today([old, gone], keys)  # nothing of today: the zoo is an older one
    assert kept == [old, gone]
    assert said.startswith("All 2 records are of an older recipe")


def test_a_line_for_every_way_that_has_scored_both_halves() -> None:
    rows = [*four_groups(), *four_groups(way="amdet"), *four_groups(way="tnc")]
    rows += [row(1.0, True, way="ufid")]  # in part
    lines = zoo_report.overall(rows).splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [
        "`vet` beside the clean model (`--base`)",
        "`amdet`",
        "`tnc`",
    ]
    assert lines[1].split(" | ")[1:3] == ["4", "4"]
    assert lines[1].split(" | ")[3].startswith("1.00 [")
    assert lines[1].split(" | ")[5].startswith("100 % [")
    page = zoo_report.page(rows, {})
    assert "All 25 records are of an older recipe" in page
    assert f"`tnc` {zoo_report.DETECTORS['tnc'][0]} before" in page
    assert "not scored models of both halves: `vet` by itself, `daa_i`" in page
    with pytest.raises(UserError, match="run `score`"):
        zoo_report.page(rows[-1:], {})


def test_the_threshold_of_a_detector_lets_through_the_share() -> None:
    scores = np.linspace(0.001, 0.04, 40)  # smaller than the digit of `vet`'s thresholds
    rows = [row(s, False, way="amdet") for s in scores]
    least = zoo_report.limit(rows, "amdet")
    assert (scores >= least).sum() == 2


def test_few_curves_are_drawn() -> None:
    ways = ("trusted", "alone", "set", "tnc", "amdet")
    rows = [r for w in ways for r in four_groups(way=w)]
    rows += [row(0.0, True, way="tnc")]  # the worst
    assert zoo_report.curves(rows) == ["trusted", "alone", "amdet", "set"]


def test_the_committed_page_and_calibration_are_those_of_the_records() -> None:
    rows, keys = zoo_report.read_rows(COMMITTED / "models.jsonl"), zoo_recipe.today()
    assert (COMMITTED / "README.md").read_text("utf-8") == zoo_report.page(rows, keys)
    used, _ = zoo_recipe.of_today(rows, keys)
    found = zoo_report.calibrations(used)
    applied = json.loads(zoo_report.APPLIED.read_text("utf-8"))["shapes"]
    assert applied == {way: vars(known) for way, known in found.items()}
    results = SimpleNamespace(root=COMMITTED.parent)
    assert zoo_report.of_results(results) == zoo_report.confusions(used)
