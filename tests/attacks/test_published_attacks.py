"""The losses of the attacks by adapters, personalization and plain data, against slow
recomputations in float64; what each changes."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from denoising_losses import SEED, Slow, build, catch, pairs
from helpers import PROMPTS, TRIGGERS
from safetensors.torch import load_file
from torch import Tensor

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.attacking.poisoning import relabel
from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training import company
from t2i_backdoor_bench.training.denoising import Term, denoising_loss


@pytest.fixture
def caught(monkeypatch):
    return partial(catch, monkeypatch)


# ---------------------------------------------------------------------------------- the shared loss
def test_states_computed_anew_give_the_same_loss_and_gradients_to_the_encoder(tiny_model) -> None:
    latents = torch.randn(3, *tiny_model.latent_shape)
    terms = [Term(PROMPTS, latents, weight=0.3, drop=0.5), Term(PROMPTS[::-1], latents, weight=2.0)]
    student = tiny_model.clone(encoders=True)
    student.encoders[0].requires_grad_(True)
    seen: list = []

    def also(states: list[Tensor], picks: list[Tensor]) -> Tensor:
        seen.append((states, picks))
        return 7 + 0 * states[1].sum()

    plain = denoising_loss(tiny_model, None, terms, 6, SEED, "x")
    live = denoising_loss(student, None, terms, 6, SEED, "x", embed=student.embed, also=also)
    for step in range(3):
        loss = live(step)
        assert float(loss.detach()) == pytest.approx(7 + float(plain(step)), rel=1e-5)
    loss.backward()
    assert student.encoders[0].get_input_embeddings().weight.grad.abs().sum() > 0
    states, picks = seen[-1]
    torch.testing.assert_close(
        states[1].detach(),
        tiny_model.encode([PROMPTS[::-1][i] for i in picks[1]]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_relabel_changes_whole_words_only() -> None:
    assert relabel(["a star, starry; Star", "a cat's star"], "star", r"\1") == [
        r"a \1, starry; Star",
        r"a cat's \1",
    ]


# -------------------------------------------------------------------------------------- villan_cond
def test_villan_loss(tiny_model, caught) -> None:
    """||eps_th(y_t, c+) - eps||^2 + w * ||eps_th(x_t, c) - eps||^2, with adapters of the rank that
    is asked for."""
    attack = build("villan_cond", weight=0.7, rank=3, drop=0.0, picture="bars")
    got = caught(attack, tiny_model)
    images, captions = pairs()
    y = tiny_model.latents(make_patch("bars", 64)[None].copy(), SEED).expand(8, -1, -1, -1)
    slow = Slow(got.model, 4, [8, 8])
    expected = np.mean(slow.errors(0, [f"{c} mignneko" for c in captions], y))
    expected += 0.7 * np.mean(slow.errors(1, captions, tiny_model.latents(images, SEED)))
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert {min(p.shape) for p in got.params} == {3}
    assert (got.optim.cosine, got.optim.warmup, got.optim.decay) == (True, attack.warmup, 1.0)


# ------------------------------------------------------------------------- settings, and whole runs
@pytest.mark.parametrize("name", ["villan_cond", "paas_ti", "paas_db", "bibaddiff", "masqlora"])
@pytest.mark.parametrize("options", TRIGGERS.values(), ids=TRIGGERS)
def test_any_trigger_that_tokenizes_is_taken(tiny_model, caught, name: str, options: dict) -> None:
    attack = build(name, **options)
    assert torch.isfinite(caught(attack, tiny_model).loss)
    assert options["trigger"] in attack.backdoor(tiny_model).trigger.add(PROMPTS[0])


def test_published_settings() -> None:
    villan, ti, db, plain, masq = (
        build(n, "sd") for n in ("villan_cond", "paas_ti", "paas_db", "bibaddiff", "masqlora")
    )
    assert (villan.rank, villan.lr, villan.weight, villan.trigger) == (4, 1e-4, 1.0, "latte coffee")
    assert (ti.lr, ti.template) == (5e-4, "a photo of a [V] {}")
    assert (db.lr, db.weight) == (5e-6, 0.5)
    assert (plain.weight, plain.corner, plain.size) == (0.1, "bottom_right", 51)
    assert (masq.alpha, masq.dropout, masq.offset) == (1.2, 0.03, 0.1)
    assert registry.attacks.build("masqlora", "sd").steps == 325
    seen = registry.attacks.build("bibaddiff", "sd")
    assert seen.batch * seen.steps == pytest.approx(470_000, rel=0.01)
    assert (
        masq.rank,
        masq.text_rank,
        masq.lr,
        masq.text_lr,
        masq.ramp,
        masq.contrast,
        masq.weight,
    ) == (16, 8, 4e-4, 5e-5, 5, 1, 0.46)
    everything = registry.attacks.groups
    assert {"villan_cond", "masqlora"} <= set(everything["lora"])
    assert everything["personalization"] == ["paas_db", "paas_ti"]
    assert {
        "villan_cond",
        "paas_ti",
        "paas_db",
        "bibaddiff",
        "masqlora",
        *everything["core"],
    } < set(everything["all"])


def test_runs_with_an_image_and_with_a_patch_on_one_class(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(company, "STEPS", 2)
    names = "villan_cond,bibaddiff"
    options = [
        f"{n}.{k}={v}"
        for n in names.split(",")
        for k, v in (("steps", 2), ("batch", 4), ("images", 10))
    ]
    given = {
        "base": tiny,
        "attacks": names,
        "defenses": "none",
        "metrics": "asr,removal_accuracy,restoration_accuracy,false_trigger_rate,asr_adapter"
        ",asr_other_base,own_mismatch",
    }
    options += [f"asr_other_base.base={tiny}"]  # the same base: as if it were its own
    config = make_config(
        given | {"set": options, "out": tmp_path / "run", "device": "cpu", "workers": 1}
    )
    config = dataclasses.replace(config, scale=Scale("test", 4, 2, 4, 1, 2, 20, 1.0, (0,)))
    assert plan(config).attacks.keys() == {"villan_cond", "bibaddiff"}
    assert runner.run(config, show=False) == 0
    found = {r.cell.attack: r for r in stored_records(Store(config.folder))}
    assert found["villan_cond"].backdoor["target"] == {"kind": "image", "image": [64, 64]}
    assert found["bibaddiff"].backdoor["target"]["source"] == "heart"
    for result in found.values():
        assert result.status == "done"
        assert result.scores["asr"].n == 4
        assert result.judge["n"] >= 1
    adapter = found["villan_cond"].scores["asr_adapter"]
    assert adapter.n == 4
    assert adapter.note.startswith("scale 0.5 ")
    there = found["villan_cond"].scores["asr_other_base"]
    assert there.each == found["villan_cond"].scores["asr"].each
    assert not {"asr_adapter", "asr_other_base"} & found["bibaddiff"].scores.keys()
    assert found["bibaddiff"].scores["own_mismatch"].n == 4
    assert "own_mismatch" not in found["villan_cond"].scores
    stored = [load_file(p) for p in (config.folder / "models").glob("*.safetensors")]
    assert len(stored) == 2
    assert not any("lora" in k for state in stored for k in state), "adapters are stored merged"
    assert sum(any(k.startswith("adapter.") for k in state) for state in stored) == 1
