"""What a cell's key depends on, and what it does not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from fakes import SCALE, change, config, fakes, keys  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import Defense, UserError, option, registry
from t2i_backdoor_bench.running import plan as plans
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config


def test_keys_are_stable(config):
    assert keys(config) == keys(change(config, out=None, fresh=True, threads=1, metrics="asr"))


def test_a_late_option_is_in_the_key_only_where_it_is_set(config, clean_registry):
    @dataclass
    class Older(Defense):
        steps: int = 4

        def apply(self, model, view, seed):
            return model

    @dataclass
    class Newer(Older):
        part: str = option("all", late=True)

    found = []
    for cls, overrides in ((Older, ()), (Newer, ()), (Newer, ("fake_late.part=first",))):
        registry.defenses.entries.pop("fake_late", None)
        registry.register_defense("fake_late")(cls)
        found.append(set(keys(change(config, defenses="fake_late", overrides=overrides)).values()))
    assert found[0] == found[1]
    assert found[1] != found[2]


def test_keys_change_with_what_a_cell_depends_on(config):
    here = keys(config)
    for other in (
        change(config, n=3),
        change(config, dtype="float16"),
        change(config, overrides=("fake_attack.shift=0.6",)),
        change(config, scale=dataclasses.replace(SCALE, training=1.0)),
    ):
        assert set(here.values()).isdisjoint(keys(other).values())
    only = keys(change(config, overrides=("fake_defense.shift=-0.5",)))
    assert only["fake_attack", "none", 0] == here["fake_attack", "none", 0]
    assert only["fake_attack", "fake_defense", 0] != here["fake_attack", "fake_defense", 0]
    two = keys(change(config, seeds=(0, 1)))
    assert set(here.items()) < set(two.items())
    assert len(set(two.values())) == 4


def test_keys_change_with_the_weights_of_base_and_scorer(config, monkeypatch):
    here = plan(config)
    monkeypatch.setattr(plans, "fingerprint", lambda source: "other weights")
    other = plan(config)
    assert here.cells[0].key != other.cells[0].key
    assert here.attack_key("fake_attack", 0) != other.attack_key("fake_attack", 0)
    monkeypatch.setattr(plans, "fingerprint", lambda source: here.shared["base"]["weights"])
    assert plan(config).cells[0].key == here.cells[0].key
    monkeypatch.setattr(plans, "scorer_fingerprint", lambda spec: "other scorer")
    other = plan(config)
    assert here.cells[0].key != other.cells[0].key
    assert here.attack_key("fake_attack", 0) == other.attack_key("fake_attack", 0)


def test_attacked_weights_do_not_depend_on_the_evaluation(config):
    assert plan(config).attack_key("fake_attack", 0) == plan(
        change(config, n=3, metrics="asr")
    ).attack_key("fake_attack", 0)
    assert plan(config).before_key(0, "") != plan(change(config, n=3)).before_key(0, "")


def test_training_scales_steps_but_not_those_that_the_user_set(config):
    assert plan(config).attacks["fake_attack"].instance.steps == 5
    assert (
        plan(change(config, overrides=("fake_attack.steps=7",)))
        .attacks["fake_attack"]
        .instance.steps
        == 7
    )


def test_a_step_among_the_steps_is_scaled_with_them(tmp_path):
    small = Config("rickrolling_taa", "none", scale=SCALES["smoke"], out=tmp_path)
    made = plan(small).attacks["rickrolling_taa"].instance
    whole = plan(change(small, scale=SCALES["quick"])).attacks["rickrolling_taa"].instance
    assert made.steps < whole.milestone, "it would never come"
    assert made.milestone == round(whole.milestone * SCALES["smoke"].training)
    own = (
        plan(change(small, overrides=("rickrolling_taa.steps=140",)))
        .attacks["rickrolling_taa"]
        .instance
    )
    assert (own.steps, own.milestone) == (140, whole.milestone)


def test_probes_need_a_scale_that_draws_changed_triggers(tmp_path):
    with pytest.raises(UserError, match=r"--probe .* --scale study has none"):
        plan(Config("badt2i_pixel", "skdcag", scale=SCALES["study"], probe=True, out=tmp_path))


def test_training_scales_pictures_and_prompts_down_to_a_few(tmp_path):
    size = dataclasses.replace(SCALES["smoke"], training=0.07)
    small = Config("badt2i_pixel", "skdcag", scale=size, out=tmp_path)
    made = plan(small)
    assert (
        made.attacks["badt2i_pixel"].instance.images,
        made.defenses["skdcag"][0].instance.prompts,
    ) == (36, 16)
    assert (
        plan(change(small, overrides=("skdcag.prompts=40",))).defenses["skdcag"][0].instance.prompts
        == 40
    )


def test_fingerprint_sees_a_changed_weight(tmp_path):
    (tmp_path / "unet").mkdir()
    weights = tmp_path / "unet" / "w.safetensors"
    weights.write_bytes(b"1")
    (tmp_path / "README.md").write_text("a card")
    first = plans.fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("another card")
    assert plans.fingerprint(str(tmp_path)) == first
    weights.write_bytes(b"2")
    assert plans.fingerprint(str(tmp_path)) != first
