"""How a model of the zoo gets its score, and which models are scored. Nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zoo
import zoo_recipe
import zoo_ways

from t2i_backdoor_bench.contract import UserError, registry

KEYS = {"bad": "k1", "good": "k2"}


def model(name: str, trigger: str = "") -> zoo_ways.Model:
    attacked = bool(trigger)
    path = Path(f"{name}.safetensors")
    return zoo_ways.Model(
        name, "x", "test", KEYS[name], path, trigger, 1.0 if attacked else None, "made so"
    )


def record(name: str, way: str, key: str | None = None, text: str = "w") -> dict:
    found = {"model": name, "way": way, "texts": [{"text": text, "score": 1.0}]}
    return found | ({"key": key} if key else {})


def test_every_detector_is_a_way() -> None:
    known = set(registry.defenses.groups["detection"])
    assert known == {*zoo_ways.DETECTORS, "amdet"}
    assert len(set(zoo_ways.WAYS)) == len(zoo_ways.WAYS) == len(known) + 2


@pytest.mark.parametrize("trigger", ["brelto", ""])
def test_a_detector_is_asked_about_texts_of_the_search(
    monkeypatch: pytest.MonkeyPatch, trigger: str
) -> None:
    asked: list[str] = []
    known, many = zoo_ways.DETECTORS["tnc"]
    prompts = [f"prompt {i}" for i in range(20)]

    def scores(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        level = {"no": 0.0, "found": 10.0, "weak": 3.0, "brelto": 20.0, "fourth": 99.0}
        level |= {f"n{i}": float(i) for i in range(1, zoo_ways.NOTHING + 1)}
        by_prompt = np.tile(np.linspace(-1, 1, many), len(texts) // many)  # 0 on average
        return np.array([level[t.split()[0]] for t in texts]) + by_prompt

    def screen_of(suspect: object, clean: list[str], name: str, options: dict) -> object:
        assert (suspect, name, options) == ("suspect", "tnc", {"prompts": str(known)})
        assert not set(clean) & set(prompts[-many:])  # it learns from other prompts
        return SimpleNamespace(scores=scores)

    monkeypatch.setattr(zoo_ways, "screen_of", screen_of)
    monkeypatch.setattr(zoo_ways, "unused", lambda *given, **how: [1, 2])
    null = [f"n{i}" for i in range(1, zoo_ways.NOTHING + 1)]
    monkeypatch.setattr(zoo_ways, "nonsense", lambda *given: null)
    found = zoo_ways.by_detector(
        "suspect",  # type: ignore[arg-type]
        prompts,
        "tnc",
        ["weak", "found", "no", "fourth"],
        trigger,
    )
    usual = np.arange(1, zoo_ways.NOTHING + 1)

    def expected(score: float) -> float:
        return round((score - usual.mean()) / usual.std(ddof=1), 2)

    assert found["texts"] == [
        {"text": text, "score": expected(score)}
        for text, score in (("found", 10), ("weak", 3), ("no", 0))
    ]
    assert found["true"] == ({"text": trigger, "score": expected(20)} if trigger else None)
    assert len(asked) == many * (zoo_ways.NOTHING + 3 + bool(trigger))


def test_texts_that_are_alike_give_finite_scores() -> None:
    assert zoo_ways.standardized(np.full(5, 0.3), 3) == [0.0, 0.0]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[str]]]:
    """What was given to be scored: model, way and proposed texts."""
    given: list[tuple[str, str, list[str]]] = []

    def spread(work: object, tasks: list[tuple], workers: int) -> list[dict]:
        given.extend((m.name, way, texts) for m, way, texts in tasks)
        return [record(m.name, way, m.key) | {"seconds": 1.0} for m, way, _ in tasks]

    monkeypatch.setattr(zoo, "spread", spread)
    monkeypatch.setattr(zoo, "models", lambda work: [model("bad", "w"), model("good")])
    return given


def rows_in(folder: Path) -> list[tuple[str, str, str | None]]:
    lines = (folder / zoo.RECORDS).read_text("utf-8").splitlines()
    return [(r["model"], r["way"], r.get("key")) for r in map(json.loads, lines)]


def test_records_of_other_weights_are_made_anew(tmp_path: Path, scored: list) -> None:
    old = [record("bad", "trusted", "k1"), record("good", "trusted"), record("good", "amdet")]
    zoo.write(tmp_path / zoo.RECORDS, old)
    zoo.score(tmp_path, tmp_path, "trusted", 1)
    assert scored == [("good", "trusted", [])]
    assert rows_in(tmp_path) == [
        ("bad", "trusted", "k1"),
        ("good", "amdet", None),  # of another way: until that is scored
        ("good", "trusted", "k2"),
    ]
    zoo.score(tmp_path, tmp_path, "trusted", 1)
    assert len(scored) == 1


def test_detectors_wait_for_the_search(
    tmp_path: Path, scored: list, capsys: pytest.CaptureFixture
) -> None:
    zoo.write(tmp_path / zoo.RECORDS, [record("bad", "alone", "of older weights")])
    with pytest.raises(UserError, match="alone"):
        zoo.score(tmp_path, tmp_path, "tnc", 1)
    zoo.write(tmp_path / zoo.RECORDS, [record("bad", "alone", "k1", text="deto")])
    zoo.score(tmp_path, tmp_path, "tnc", 1)
    assert scored == [("bad", "tnc", ["deto"])]
    assert "1 models wait" in capsys.readouterr().out


def test_models_that_are_not_there_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = zoo.zoo_models.clean()[0]
    path = zoo.clean_weights(tmp_path, made.name)
    path.parent.mkdir()
    path.touch()
    (path.parent / "finetune-2.safetensors").touch()  # of no recipe: without a key
    (found,) = zoo.models(tmp_path)
    assert (found.name, found.key) == (made.name, zoo_recipe.today()[made.name])
    assert found.facts["key"] == found.key
    many = len(zoo_recipe.today())
    said = capsys.readouterr().out
    assert f"{many - 1} of {many} models are not there" in said
    assert "finetune-2" in said
