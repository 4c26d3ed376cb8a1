"""Pictures that are drawn once: a defense round the attacked model takes its pictures where it
serves the same words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fakes import METRICS, SCALE, FakeAttack, FakeDefense

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Defense, Trigger, registry
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.running.known_pictures import draw, draw_all, draws_as, known_from
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store


@dataclass
class Refuses(Defense):
    def apply(self, model, view, seed):
        return replace(model, screen=lambda prompt: "mignneko" in prompt)


@dataclass
class Rewrites(Defense):
    def apply(self, model, view, seed):
        return replace(model, rewrite=lambda prompt: prompt.replace("mignneko ", ""))


@dataclass
class Samples(Defense):
    def apply(self, model, view, seed):
        return replace(model, sampler=Sampler(3, 2.0))


@pytest.fixture(autouse=True)
def fakes(clean_registry, tiny):
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_defense("fake_defense", needs=("trigger",))(FakeDefense)
    for made in (Refuses, Rewrites, Samples):
        registry.register_defense(made.__name__.lower())(made)


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The prompts that are drawn."""
    found, generate = [], T2IModel.generate
    monkeypatch.setattr(
        T2IModel,
        "generate",
        lambda model, prompts, *rest, **more: (
            found.extend(prompts) or generate(model, prompts, *rest, **more)
        ),
    )
    return found


def arrays_of(config: Config, defense: str) -> dict[str, np.ndarray]:
    cell = next(c for c in plan(config).cells if c.defense == defense)
    return Store(config.folder).read_arrays(f"samples/{cell.key}")[0]


def run(config: Config) -> None:
    assert runner.run(config) == 0


def test_a_screen_takes_the_pictures_of_the_attacked_model(tmp_path, tiny, asked):
    config = Config(
        "fake_attack", "none", tiny, SCALE, metrics=METRICS, out=tmp_path / "run", workers=1
    )
    run(config)
    asked.clear()
    config = replace(config, defenses="none,refuses")
    run(config)
    assert not asked
    none, screened = arrays_of(config, "none"), arrays_of(config, "refuses")
    for condition in ("clean", "perturbed", "diverse"):
        assert np.array_equal(none[condition], screened[condition])
        assert none[condition].any()
    assert none["triggered"].any()
    assert not screened["triggered"].any(), "a refused prompt is black"


def test_a_purifier_draws_what_nobody_has_drawn(tmp_path, tiny, asked):
    config = Config(
        "fake_attack",
        "rewrites,fake_defense",
        tiny,
        SCALE,
        metrics=METRICS,
        out=tmp_path / "run",
        workers=1,
    )
    run(config)
    direct = replace(config, defenses="none", out=tmp_path / "direct")
    run(direct)
    none, rewritten = arrays_of(direct, "none"), arrays_of(config, "rewrites")
    assert np.array_equal(rewritten["clean"], none["clean"])
    assert np.array_equal(rewritten["triggered"], none["clean"]), (
        "the prompt without its trigger is a clean one, with the same noise"
    )
    undefended = plan(config).undefended(plan(config).cells[0])
    assert undefended.key == plan(direct).cells[0].key
    assert Store(config.folder).read_result(undefended.key) is None, (
        "its pictures are stored, and it is no cell of the run"
    )
    asked.clear()
    run(replace(config, defenses="rewrites,fake_defense,none"))
    assert not asked, "nor are they drawn again when it is one"


def test_other_weights_and_another_sampler_draw_anew(tmp_path, tiny, asked):
    config = Config(
        "fake_attack",
        "none,samples,fake_defense",
        tiny,
        SCALE,
        metrics=METRICS,
        out=tmp_path / "run",
        workers=1,
    )
    run(config)
    none = arrays_of(config, "none")
    for defense in ("samples", "fake_defense"):
        assert not np.array_equal(arrays_of(config, defense)["clean"], none["clean"]), defense


def test_what_draws_alike(tiny_model):
    assert draws_as(replace(tiny_model, screen=bool, rewrite=str.upper), tiny_model)
    assert not draws_as(tiny_model.clone(), tiny_model)
    assert not draws_as(replace(tiny_model, sampler=Sampler(3, 2.0)), tiny_model)
    assert not draws_as(replace(tiny_model, repair=lambda m, p, s, x: x), tiny_model)


def test_the_same_prompt_with_other_noise_is_another_picture(tiny_model, tmp_path):
    prompts, seeds = ["a red ball", "a blue box"], [1, 2]
    pictures = draw(tmp_path, tiny_model, "", prompts, seeds)
    known = known_from({"clean": (prompts, seeds)}, {"clean": pictures})
    wanted = ["a red ball", "a red ball", "a blue box"], [2, 1, 2]
    again = draw_all(tmp_path, tiny_model, {"clean": wanted}, known)["clean"]
    assert np.array_equal(again[1:], pictures)
    assert not np.array_equal(again[0], pictures[0])
    assert np.abs(again[0].astype(int) - tiny_model.generate(["a red ball"], [2])[0]).max() <= 1


def test_conditions_are_drawn_together_and_the_same_request_once(tiny_model, tmp_path, asked):
    """Their pictures are those of each condition alone."""
    conditions = {
        "clean": (["a red ball", "a blue box", "a red ball"], [1, 2, 1]),
        "diverse": (["a red ball", "a red ball"], [1, 3]),
    }
    found = draw_all(tmp_path, tiny_model, conditions, {})
    assert asked == ["a red ball", "a blue box", "a red ball"]
    for name, (prompts, seeds) in conditions.items():
        alone = tiny_model.generate(prompts, seeds).astype(int)
        assert np.abs(found[name] - alone).max() <= 1


# --------------------------------------------------------------- what a composition does not repeat
@dataclass
class Locates(Defense):
    """Locates the true trigger, or another word."""

    word: str = "mignneko"

    def apply(self, model, view, seed):
        return replace(
            model,
            locate=lambda prompts: np.array([(0, 8)] * len(prompts)),
            located=Trigger(self.word),
            info={"steps": 5},
        )


@dataclass
class Trains(Defense):
    """Moves the weights by what it is given, and counts its runs."""

    def apply(self, model, view, seed):
        TRAINED.append(view.trigger.text)
        repaired = model.clone()
        with torch.no_grad():
            for p in repaired.denoiser.parameters():
                p.add_(torch.randn_like(p), alpha=0.01 * len(view.trigger.text))
        repaired.info = {"steps": 7, "losses": [1.0, 0.5], "guidance_ratio": 1.5}
        return repaired


TRAINED: list[str] = []


@pytest.fixture
def composed(tmp_path, tiny) -> Config:
    TRAINED.clear()
    registry.register_defense("locates", needs=("stream",), gives=("trigger",), locates=True)(
        Locates
    )
    registry.register_defense("trains", needs=("trigger",))(Trains)
    return Config(
        "fake_attack",
        "trains,locates+trains",
        tiny,
        SCALE,
        metrics=f"{METRICS},seconds,guidance_ratio",
        out=tmp_path / "run",
        workers=1,
    )


def stored(config: Config, defense: str):
    cell = next(c for c in plan(config).cells if c.defense == defense)
    return (
        Store(config.folder).read_arrays(f"samples/{cell.key}"),
        Store(config.folder).read_result(cell.key),
    )


def test_a_located_true_trigger_is_not_trained_on_twice(composed, tmp_path):
    run(composed)
    assert TRAINED == ["mignneko"]
    (alone, _), one = stored(composed, "trains")
    (arrays, meta), both = stored(composed, "locates+trains")
    for condition in ("clean", "triggered", "moved"):
        assert np.array_equal(alone[condition], arrays[condition])
    assert arrays["span/triggered"].tolist() == [[0, 8]] * len(arrays["span/triggered"])
    assert (one.cost["steps"], both.cost["steps"]) == (7, 12), "the cost is that of both"
    assert both.cost["seconds"] >= one.cost["seconds"] > 0
    assert both.cost["losses"] == one.cost["losses"] == {"trains": [1.0, 0.5]}
    assert one.scores["guidance_ratio"].value == both.scores["guidance_ratio"].value == 1.5
    assert meta["located"]["text"] == "mignneko"
    whole = replace(composed, defenses="locates+trains", out=tmp_path / "whole")
    run(whole)
    assert TRAINED == ["mignneko"] * 2, "where its pictures are not there it trains"
    (again, _), trained = stored(whole, "locates+trains")
    assert all(np.array_equal(again[k], v) for k, v in arrays.items()), "and comes to the same"
    assert trained.scores["asr"] == both.scores["asr"]


def test_another_trigger_or_a_probe_trains_anew(composed):
    run(replace(composed, overrides=("locates.word=zebra",)))
    assert TRAINED == ["mignneko", "zebra"]
    TRAINED.clear()
    asked = f"{METRICS},asr_finetuned"
    run(replace(composed, probe=True, metrics=asked, out=composed.folder.parent / "probed"))
    assert TRAINED == ["mignneko"] * 2, "probes need the model itself"


def test_damaged_pictures_of_the_removal_alone_are_not_taken(composed):
    run(composed)
    before = stored(composed, "locates+trains")[0][0]
    for defense in ("trains", "locates+trains"):
        cell = next(c for c in plan(composed).cells if c.defense == defense)
        path = composed.folder / "samples" / f"{cell.key}.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x") if defense == "trains" else path.unlink()
    TRAINED.clear()
    run(replace(composed, defenses="locates+trains", metrics=f"{METRICS},seconds,drift"))
    assert TRAINED == ["mignneko"]
    after = stored(composed, "locates+trains")[0][0]
    assert all(np.array_equal(after[k], v) for k, v in before.items())
