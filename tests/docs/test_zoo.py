"""The zoo: its models are two halves of many kinds, and its thresholds are those of the rule."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import zoo_models
import zoo_report
from sources import ROOT

from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.names import names_of, read
from t2i_backdoor_bench.detecting.calibration import NONE, UNSURE
from t2i_backdoor_bench.detecting.candidates import published
from t2i_backdoor_bench.models.model import T2IModel

APART = {"adaptive", "exposed", "checkpoint", "suspect"}  # no attacks by themselves


def row(score: float, attacked: bool, half: str = "calibration", asr: float = 1.0) -> dict:
    return {
        "model": f"{score}",
        "kind": "x",
        "half": half,
        "attacked": attacked,
        "asr": asr if attacked else None,
        "way": "trusted",
        "texts": [{"text": "w", "score": score}],
        "true": {"score": score + 1} if attacked else None,
    }


def test_every_attack_of_the_embedded_base_is_in_it() -> None:
    registry.attacks.load()
    names = [name for name, _ in zoo_models.attacked()]
    assert names_of(",".join(names)) == names
    assert {read(n)[0] for n in names} >= set(registry.attacks.groups["all"]) - APART
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


def test_the_packages_calibration_is_that_of_the_records() -> None:
    path = ROOT / "results" / "zoo" / "models.jsonl"
    rows = [json.loads(x) for x in path.read_text("utf-8").splitlines()]
    applied = json.loads(zoo_report.APPLIED.read_text("utf-8"))["shapes"]
    for way, found in applied.items():
        known = zoo_report.calibrate(zoo_report.counted(rows, way, "calibration"))
        assert found == vars(known)
