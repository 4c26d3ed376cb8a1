"""What comes after a removal (probes), and the removal that mends single pictures (sau)."""

from __future__ import annotations

from dataclasses import replace

import kinds
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import CALLS, METRICS, SCALE, FakeAttack, FakeDefense, change, records, table
from helpers import PROMPTS, TRIGGER, different, weights
from scipy.ndimage import gaussian_filter

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError, defenses, registry
from t2i_backdoor_bench.defenses import sau
from t2i_backdoor_bench.models.screens import PromptScreen
from t2i_backdoor_bench.running.adapter_pictures import adapter_prompts
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.probe_pictures import probe_prompts
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.training import probes as probe

TRIGGERED = [TRIGGER.add(p) for p in PROMPTS]
SEEDS = [4, 5, 6]


SAMPLERS = ["DDIM", "Euler", *probe.NUMBERS]


# ------------------------------------------------------------------------------------------- probes
def test_fine_tuning_is_twenty_steps_on_a_copy(tiny_model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    before = weights(tiny_model)
    later = probe.finetuned(replace(tiny_model, screen=str.isupper), images, PROMPTS * 2, 0)
    assert different(before, weights(tiny_model)) == set()
    moved = different(before, weights(later))
    assert moved
    assert all(k.startswith("unet.") for k in moved)
    assert later.screen == PromptScreen(str.isupper)
    assert (
        max(float((before[k] - weights(later)[k]).abs().max()) for k in sorted(moved)[:5])
        < 25 * probe.RATE["shapes"]
    )
    again = probe.finetuned(tiny_model, images, PROMPTS * 2, 0)
    assert different(weights(later), weights(again)) == set()


@pytest.mark.parametrize("kind", SAMPLERS)
def test_each_sampler_draws_the_same_weights_in_another_way(tiny_model, kind: str) -> None:
    model = replace(tiny_model, sampler=replace(tiny_model.sampler, steps=6))
    other = probe.with_sampler(model, kind)
    assert other.denoiser is model.denoiser
    assert (other.sampler != model.sampler) != (
        type(other.pipe.scheduler) is not type(model.pipe.scheduler)
    )
    assert (
        other.pipe.scheduler.config.prediction_type == model.pipe.scheduler.config.prediction_type
    )
    a, b = model.generate(PROMPTS[:1], [3]), other.generate(PROMPTS[:1], [3])
    assert a.shape == b.shape
    assert (a != b).any()
    assert np.array_equal(b, other.generate(PROMPTS[:1], [3]))


def test_other_samplers_agree_in_the_limit(tiny_model) -> None:
    """All solve one equation: with many steps they meet, so that a scheduler with another noise
    schedule would be seen."""
    many = replace(tiny_model, sampler=replace(tiny_model.sampler, steps=200, guidance=1.5))
    reference = many.generate(PROMPTS[:1], [3]).astype(float)
    far = np.abs(many.generate(PROMPTS[:1], [4]).astype(float) - reference).mean()
    for kind in ("DDIM", "Euler", "half the steps"):
        apart = np.abs(
            probe.with_sampler(many, kind).generate(PROMPTS[:1], [3]).astype(float) - reference
        ).mean()
        assert apart < 0.2 * far, kind


def test_pictures_take_the_samplers_in_turn(tiny_model) -> None:
    n = len(SAMPLERS) + 1
    assert probe.resampled_kinds(tiny_model, n) == [*SAMPLERS, SAMPLERS[0]]
    out = probe.resampled(tiny_model, PROMPTS * 3, list(range(9)))
    one = probe.with_sampler(tiny_model, SAMPLERS[7 % 6]).generate([(PROMPTS * 3)[7]], [7])
    assert np.abs(out[7].astype(int) - one[0]).max() <= 1
    assert out.shape == (9, 64, 64, 3)


@pytest.fixture
def config(tmp_path, tiny, clean_registry):
    CALLS.clear()
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_defense("fake_defense", needs=("trigger",))(FakeDefense)
    return Config(
        "fake_attack",
        "fake_defense",
        tiny,
        SCALE,
        metrics=f"{METRICS},asr_finetuned,asr_benign_lora,asr_resampled",
        out=tmp_path / "run",
        workers=1,
    )


def test_probes_add_columns_and_leave_the_rest(config) -> None:
    assert runner.run(config) == 0
    (plain,) = table(config)
    assert plain["asr_finetuned"] == plain["asr_benign_lora"] == plain["asr_resampled"] == ""
    probing = change(config, probe=True)
    assert [c.key for c in plan(probing).cells] == [c.key for c in plan(config).cells]
    assert runner.run(probing) == 0
    assert CALLS == ["attack 0", "defense -0.25 0", "defense -0.25 0"], (
        "the model is made again, not the attack"
    )
    (row,) = table(probing)
    assert row["asr_finetuned"] != ""
    assert row["asr_benign_lora"] != ""
    assert all(
        row[k] == plain[k]
        for k in plain
        if not k.startswith("asr_") and not k.startswith("seconds")
    )
    for kind in ("finetuned", "benign_lora", "resampled"):
        arrays, _ = Store(config.folder).read_arrays(f"{kind}/{plan(config).cells[0].key}")
        assert {k: len(v) for k, v in arrays.items()} == {kind: SCALE.moved}
    (result,) = records(probing).values()
    assert "DDIM" in result.scores["asr_resampled"].note
    for name in ("asr_resampled", "asr_finetuned", "asr_benign_lora"):
        assert "as asked" in result.scores[name].note, "no backdoor, or no picture?"
    assert runner.run(probing) == 0
    assert len(CALLS) == 3, "stored"


def test_scales_that_resample_need_no_probe(config) -> None:
    """Training on the timesteps of the evaluation's sampler is no secret advantage there."""
    assert all(SCALES[name].resampled for name in ("study", "full"))
    resampling = change(config, scale=replace(SCALE, resampled=3))
    assert runner.run(resampling) == 0
    (row,) = table(resampling)
    assert row["asr_resampled"] != ""
    assert row["asr_finetuned"] == ""
    assert CALLS == ["attack 0", "defense -0.25 0"], "drawn from the model at hand"
    (result,) = records(resampling).values()
    assert result.scores["asr_resampled"].n == 3


def test_study_and_full_see_whether_a_backdoor_comes_back(config) -> None:
    """A removal that a next owner undoes by chance is none."""
    assert all(SCALES[name].recovered for name in ("study", "full"))
    asked = change(config, scale=replace(SCALE, recovered=2, moved=0))
    cell = plan(asked).cells[0]
    assert {"asr_finetuned", "asr_benign_lora"} <= set(
        plan(asked).metrics_of("fake_attack", "none")
    )
    assert probe_prompts(plan(asked), cell) == {
        "finetuned": 2,
        "benign_lora": 2,
        "resampled": 0,
        "adapter": 0,
        "other_base": 0,
    }
    unasked = change(asked, metrics=METRICS)
    assert set(probe_prompts(plan(unasked), cell).values()) == {0}, "nothing is drawn in vain"


@pytest.mark.parametrize(("name", "many"), [("quick", 32), ("study", 60), ("full", 100)])
def test_adapters_are_used_in_other_ways_at_every_scale(config, name: str, many: int) -> None:
    metrics = "asr_adapter,asr_other_base"
    asked = change(config, attacks="villan_cond", scale=SCALES[name], metrics=metrics)
    found = plan(asked)
    assert adapter_prompts(found, found.cells[0]) == {"adapter": many, "other_base": many}
    published = replace(found, base=replace(found.base, settings="sd"))
    assert adapter_prompts(published, found.cells[0]) == {"adapter": many, "other_base": 0}
    named = plan(change(asked, overrides=("asr_other_base.base=tiny",)))
    published = replace(named, base=replace(named.base, settings="sd"))
    assert adapter_prompts(published, named.cells[0])["other_base"] == many
    assert [c.key for c in named.cells] == [c.key for c in found.cells]


def test_another_base_of_another_shape_is_refused(config, tmp_path) -> None:
    folder = kinds.build(tmp_path / "sd2", "sd2")
    for other, why in ((folder, "hidden_size 48"), ("shapes-xl", "it is SDXL")):
        asked = change(
            config,
            attacks="villan_cond",
            metrics="asr_other_base",
            overrides=(f"asr_other_base.base={other}",),
        )
        with pytest.raises(UserError, match=why):
            plan(asked)


# ---------------------------------------------------------------------------------------------- sau
def mended(model, **options):
    """The model that `sau` gives. The options may be out of range, for masks of ones and zeros."""
    defense = replace(defenses.build("sau", "shapes"), **options)
    return defense.apply(
        model, DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=TRIGGER), 0
    )


def test_sau_leaves_prompts_without_the_trigger_alone(tiny_model) -> None:
    model = mended(tiny_model)
    asked = [PROMPTS[0], TRIGGERED[1], PROMPTS[2]]
    plain, out = tiny_model.generate(asked, SEEDS), model.generate(asked, SEEDS)
    assert [bool((a != b).any()) for a, b in zip(plain, out, strict=True)] == [False, True, False]
    assert tiny_model.repair is None
    assert model.denoiser is tiny_model.denoiser


def test_sau_with_a_mask_of_ones_draws_the_clean_picture(tiny_model) -> None:
    model = mended(tiny_model, alpha=1.0, primary=-10.0, secondary=10.0)
    difference = np.abs(
        model.generate(TRIGGERED, SEEDS).astype(int) - tiny_model.generate(PROMPTS, SEEDS)
    )
    assert difference.max() <= 1
    same = mended(tiny_model, primary=10.0, secondary=10.0)
    assert (
        np.abs(
            same.generate(TRIGGERED, SEEDS).astype(int) - tiny_model.generate(TRIGGERED, SEEDS)
        ).max()
        <= 1
    )


def test_sau_blends_as_its_formula_says() -> None:
    g = torch.Generator().manual_seed(0)
    hp, hc, attention = (
        torch.randn(2, 3, 4, 4, generator=g),
        torch.randn(2, 3, 4, 4, generator=g),
        torch.rand(2, 1, 4, 4, generator=g),
    )
    method = sau.SAU(
        alpha=0.8, primary=0.3, secondary=0.4, steepness=7.0, attention_blur=0.6, blur=0.5
    )
    found = method.blend(hp, hc, attention).numpy()

    def blurred(x: np.ndarray, sigma: float) -> np.ndarray:
        return np.stack(
            [gaussian_filter(c, sigma, mode="nearest", radius=int(np.ceil(3 * sigma))) for c in x]
        )

    for p, c, a, out in zip(hp.numpy(), hc.numpy(), attention.numpy(), found, strict=True):
        d = p - c
        cosine = (p * d).sum(0) / (np.linalg.norm(p, axis=0) * np.linalg.norm(d, axis=0))
        scaled = (a - a.min()) / (a.max() - a.min())
        m1 = 1 / (1 + np.exp(-7 * (cosine - 0.3)))
        m2 = 1 / (1 + np.exp(-7 * (blurred(scaled, 0.6)[0] - 0.4)))
        expected = p * (1 - m1) * (1 - m2) + 0.8 * m1 * c + 0.4 * m2 * c
        assert out == pytest.approx(blurred(expected, 0.5), abs=1e-4)


def test_sau_reads_the_attention_of_the_trigger(tiny_model) -> None:
    latents = torch.randn(3, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(1))
    both = sau.trigger_attention(tiny_model, TRIGGER, TRIGGERED, latents, SEEDS)
    alone = sau.trigger_attention(tiny_model, TRIGGER, TRIGGERED[1:2], latents[1:2], SEEDS[1:2])
    assert both.shape == (3, 1, 8, 8)
    torch.testing.assert_close(both[1:2], alone, rtol=1e-3, atol=1e-6)
    first = sau.trigger_attention(tiny_model, Trigger("latte", "inside"), TRIGGERED, latents, SEEDS)
    assert not torch.allclose(both, first)


@pytest.mark.parametrize("place", ["prefix", "suffix", "inside"])
def test_sau_takes_the_trigger_out_of_the_prompt(place: str) -> None:
    trigger = Trigger("latte coffee", place)
    assert [trigger.remove(trigger.add(p)) for p in PROMPTS] == PROMPTS
    letter = Trigger("\u0435", replaces="e")
    assert [letter.remove(letter.add(p)) for p in PROMPTS] == PROMPTS
    assert sau.gaussian_blur(torch.ones(1, 2, 5, 5), 1.3).sub(1).abs().max() < 1e-6
    assert F.l1_loss(sau.gaussian_blur(torch.ones(1, 1, 3, 3), 0.0), torch.ones(1, 1, 3, 3)) == 0
