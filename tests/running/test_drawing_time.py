"""What drawing a picture costs before and after a defense."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fakes import METRICS, SCALE, FakeAttack, FakeDefense

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Defense, Screen, registry
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running import drawing_time
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

CLOCK = [0.0]  # seconds of a clock that only drawing, screening and rewriting move


@dataclass
class DrawsTwice(Defense):
    """Draws every triggered prompt a second time."""

    def apply(self, model, view, seed):
        def repair(drawing, prompts, seeds, latents):
            CLOCK[0] += sum("mignneko" in p for p in prompts)
            return latents

        return replace(model, repair=repair)


@dataclass
class Slow(Screen):
    def refuses(self, prompts):
        CLOCK[0] += 0.25 * len(prompts)
        return np.zeros(len(prompts), bool)


@dataclass
class Screens(Defense):
    def apply(self, model, view, seed):
        return replace(model, screen=Slow())


@dataclass
class Rewrites(Defense):
    def apply(self, model, view, seed):
        def rewrite(prompt):
            CLOCK[0] += 0.5
            return prompt

        return replace(model, rewrite=rewrite)


@pytest.fixture
def measured(clean_registry, tiny, tmp_path, monkeypatch) -> dict[str, dict]:
    """The costs of a run by defense, where drawing a picture takes one second."""
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_defense("fake_defense", needs=("trigger",))(FakeDefense)
    for made in (DrawsTwice, Screens, Rewrites):
        registry.register_defense(made.__name__.lower())(made)
    draw = T2IModel.draw_latents

    def timed(model, conditioning, *rest, **more):
        CLOCK[0] += len(conditioning)
        return draw(model, conditioning, *rest, **more)

    monkeypatch.setattr(T2IModel, "draw_latents", timed)
    monkeypatch.setattr(time, "perf_counter", lambda: CLOCK[0])
    names = "none,fake_defense,drawstwice,screens,rewrites"
    metrics = f"{METRICS},seconds_picture"
    folder = tmp_path / "run"
    config = Config("fake_attack", names, tiny, SCALE, metrics=metrics, out=folder, workers=1)
    assert runner.run(config) == 0
    assert len(plan(config).cells) == 5
    return {r.cell.defense: r for r in stored_records(Store(folder))}


def test_every_way_to_slow_drawing_down_is_seen(measured):
    found = {name: record.cost["seconds_picture"] for name, record in measured.items()}
    assert found == pytest.approx(
        {"none": 1, "fake_defense": 1, "drawstwice": 2, "screens": 1.25, "rewrites": 1.5}
    )
    for record in measured.values():
        assert record.cost["seconds_picture_before"] == pytest.approx(1)
    assert measured["drawstwice"].cost["seconds_picture_clean"] == pytest.approx(1)
    score = measured["drawstwice"].scores["seconds_picture"]
    assert score.value == pytest.approx(2)
    assert score.note == (
        "2.00 times the attacked model's 1 s, with the trigger in the prompt; without it 1.00 times"
    )


def test_it_draws_few_pictures(monkeypatch, tiny_model):
    asked: list[str] = []
    monkeypatch.setattr(
        T2IModel, "generate", lambda model, prompts, *rest, **_: asked.extend(prompts)
    )
    drawing_time._seconds(tiny_model, ["a"] * 100, range(100))
    assert len(asked) == drawing_time.PICTURES == 2
