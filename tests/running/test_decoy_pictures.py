"""The decoys of a run: drawn once an attack, the first ones of them by each defended model, and
what a detector is measured against."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from fakes import SCALE, FakeAttack, FakeDefense, forbid_drawing, records

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Defense, registry
from t2i_backdoor_bench.data.decoys import DECOYS
from t2i_backdoor_bench.detecting.screening import screened
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store

SIZE = replace(SCALE.resized(12), decoys=3, decoys_after=1)
METRICS = "asr_decoy,asr_moved,detection_auroc_decoy"


@dataclass
class Detector(Defense):
    """Scores a prompt by its length."""

    @property
    def needs_prompts(self):
        return 8

    def apply(self, model, view, seed):
        def score(prompts):
            return np.array([len(p) for p in prompts], float)

        return screened(model, score, view.first(8), 0.1)


@pytest.fixture(autouse=True)
def fakes(clean_registry, tiny):
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_defense("fake_defense", needs=("trigger",))(FakeDefense)
    registry.register_defense("detector", needs=("clean_prompts",), screens=True)(Detector)


@pytest.fixture
def config(tmp_path, tiny):
    names = "none,fake_defense,detector,fake_defense+detector"
    return Config(
        "fake_attack", names, tiny, SIZE, metrics=METRICS, out=tmp_path / "run", workers=1
    )


def stored(config: Config):
    store = Store(config.folder)
    return {c.defense: store.read_arrays(f"samples/{c.key}") for c in plan(config).cells}


def test_defended_models_draw_the_first_decoys_of_the_undefended_one(config):
    assert runner.run(config) == 0
    found, scores = stored(config), {k[1]: r.scores for k, r in records(config).items()}
    none, meta = found["none"]
    assert none["decoy"].shape[0] == 12
    assert meta["kinds"]["decoy"] == [*DECOYS] * 3
    for defense in ("fake_defense", "detector", "fake_defense+detector"):
        arrays, about = found[defense]
        assert arrays["decoy"].shape[0] == 4
        assert about["kinds"] == meta["kinds"], "one list, of which it draws the first"
    served = ~found["detector"][0]["refused/decoy"].astype(bool)
    same = (found["detector"][0]["decoy"] == none["decoy"][:4]).reshape(4, -1).all(1)
    assert np.array_equal(same, served), "the detector changes no picture that it serves"
    assert scores["none"]["asr_decoy"].n == 12
    assert scores["fake_defense"]["asr_decoy"].n == 4
    assert scores["none"]["asr_decoy"].note.count(" of 3") == len(DECOYS)


def test_a_detector_is_measured_against_decoys_of_the_attacked_model(config, monkeypatch):
    assert runner.run(config) == 0
    found, scores = stored(config), {k[1]: r.scores for k, r in records(config).items()}
    fired = sum(scores["none"]["asr_decoy"].each)
    for defense in ("detector", "fake_defense+detector"):
        arrays, _ = found[defense]
        assert arrays["score/attacked_decoy"].shape == (12,)
        assert "refused/attacked_decoy" not in arrays
        assert np.array_equal(arrays["attacked_decoy"], found["none"][0]["decoy"])
        assert np.array_equal(arrays["score/attacked_decoy"][:4], arrays["score/decoy"])
        measured = scores[defense]["detection_auroc_decoy"]
        assert f"{fired} of 12 decoys fire" in measured.note
        assert measured.n == 0 or measured.n in (12 - fired, 24 - fired)
    assert "attacked_decoy" not in found["none"][0]
    forbid_drawing(monkeypatch)
    assert runner.run(replace(config, metrics=f"{METRICS},asr")) == 0


def test_a_detector_alone_has_the_attacked_models_decoys_too(config):
    alone = replace(config, defenses="fake_defense+detector")
    assert runner.run(alone) == 0
    scores = next(iter(records(alone).values())).scores["detection_auroc_decoy"]
    assert "of 12 decoys fire" in scores.note
    undefended = plan(alone).undefended(plan(alone).cells[0])
    assert len(Store(alone.folder).read_arrays(f"samples/{undefended.key}")[0]["decoy"]) == 12


def test_the_numbers_of_decoys_are_a_part_of_the_keys():
    keys = [(s.decoys, s.decoys_after) for s in SCALES.values()]
    assert dict(zip(SCALES, keys, strict=True)) == {
        "smoke": (1, 1),
        "quick": (8, 4),
        "study": (0, 0),
        "full": (48, 25),
    }
    assert SCALES["full"].evaluation["decoys"] == 48
    assert SCALES["full"].evaluation["decoys_after"] == 25
    small = SCALES["quick"].resized(4)
    assert (small.decoys, small.decoys_after) == (4, 4)


def test_a_scale_without_decoys_draws_none(config):
    none = replace(config, scale=replace(SIZE, decoys=0, decoys_after=0), defenses="none,detector")
    assert runner.run(none) == 0
    found, scores = stored(none), {k[1]: r.scores for k, r in records(none).items()}
    assert all("decoy" not in arrays for arrays, _ in found.values())
    assert scores["none"]["asr_decoy"].value is None
    assert scores["none"]["asr_decoy"].note == "no decoy images"
    assert scores["detector"]["detection_auroc_decoy"].value is None
    assert "decoy" in scores["detector"]["detection_auroc_decoy"].note


def test_harmless_words_are_drawn_where_a_metric_asks_for_them(config, monkeypatch):
    asked = replace(config, defenses="none,detector", metrics="asr,trigger_effect")
    assert runner.run(asked) == 0
    notes = {k[1]: r.scores["trigger_effect"].note for k, r in records(asked).items()}
    for note in notes.values():
        assert "beside 9 harmless words on 8 prompts" in note
        assert "the trigger before the attack: 1 - cosine" in note
    files = sorted((asked.folder / "harmless").glob("*.safetensors"))
    assert len(files) == 3, "of both cells and of the model before the attack"
    forbid_drawing(monkeypatch)
    again = replace(asked, metrics="asr,trigger_effect,asr_decoy")
    assert runner.run(again) == 0
    none, detector = (Store(asked.folder).read_arrays(f"harmless/{f.stem}")[0] for f in files[:2])
    assert {len(a["harmless"]) for a in (none, detector)} == {72}


def test_no_harmless_words_are_drawn_where_no_metric_asks(config):
    assert runner.run(replace(config, defenses="none")) == 0
    assert not (config.folder / "harmless").exists()
