"""Attacks that know the defense: how they are named and planned, the step that they take, and what
they choose against a detector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t2i_backdoor_bench.attacking import hardening
from t2i_backdoor_bench.contract import Attack, UserError, option, options_of, registry
from t2i_backdoor_bench.contract.options import DATA, scaled
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.hardened import AttackersData, HardenedAttack, Tried
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config

NAME = "eviledit+adaptive[against=uce]"


def config(attacks: str, out: Path, **more: object) -> Config:
    return Config(attacks=attacks, defenses="none,uce", out=out, **more)


def test_a_row_with_the_backdoor_of_the_attack_and_a_key_of_attack_and_defense(tmp_path) -> None:
    made = plan(config(f"eviledit,{NAME}", tmp_path))
    assert list(made.attacks) == ["eviledit", NAME]
    plain, hard = made.attacks["eviledit"], made.attacks[NAME]
    assert isinstance(hard.instance, HardenedAttack)
    assert hard.instance.backdoor(None) == plain.instance.backdoor(None)
    assert [part.name for part in hard.against] == ["uce"]
    other = plan(config(NAME, tmp_path, overrides=("uce.ridge=2",))).attacks[NAME]
    assert other.key != hard.key, "the defense's options are part of what was attacked"
    keys = {made.attack_key(name, 0) for name in made.attacks}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("adaptive[against=uce]", "stands behind one attack"),
        ("eviledit+adaptive", "against which defense"),
        ("eviledit+adaptive[against=uec]", "unknown defense 'uec'"),
        ("eviledit+badt2i_pixel+adaptive[against=uce]", "stands behind one attack"),
        ("checkpoint+adaptive[against=uce]", "cannot be hardened"),
        ("eviledit+adaptive[against=uce,share=0]", "share"),
        ("bagm_deep+adaptive[against=uce]", "bagm_deep has no trigger, and uce cannot"),
        ("silent_branding+adaptive[against=daa_s]", "has no trigger, and daa_s cannot"),
    ],
)
def test_what_cannot_be_hardened_is_refused_in_a_line(name: str, says: str, tmp_path) -> None:
    with pytest.raises(UserError, match=says) as caught:
        plan(config(name, tmp_path))
    assert "\n" not in str(caught.value)


def test_an_attack_without_a_trigger_leaves_a_defender_none_when_it_is_hardened(tmp_path) -> None:
    name = "silent_branding+adaptive[against=clean_finetune]"
    made = plan(config(name, tmp_path))
    assert made.attacks[name].instance.withheld == ("trigger", "stream")
    assert {cell.defense for cell in made.cells} == {"none"}, "uce needs the trigger"


def test_a_round_shortens_trainings_and_takes_no_data_away() -> None:
    attack = registry.attacks.build("rickrolling_tpa", "shapes")
    short = scaled(attack, DATA, 0.25)
    assert (short.steps, short.milestone) == (round(attack.steps / 4), round(attack.milestone / 4))
    assert short.prompts == attack.prompts
    poison = registry.attacks.build("natural_poison", "shapes")
    short = scaled(poison, DATA, 0.25)
    assert (short.images, short.pool) == (poison.images, poison.pool)
    assert short.steps == poison.steps / 4
    for kind in (registry.attacks, registry.defenses):
        for name in kind.entries:
            for key, (_, found) in options_of(kind.get(name).cls).items():
                if found.scales:
                    assert (found.least > 1) == (key in DATA), f"{name}.{key} is data or a length"


def test_all_has_no_adaptive_attack() -> None:
    assert "adaptive" not in registry.attacks.groups["all"]


def test_a_rehearsal_sees_the_attackers_split_alone() -> None:
    world = WorldData()
    own = AttackersData(world)
    shown = {p.text for p in own.prompts("defender", 40, 0)}
    assert not shown & {p.text for p in world.prompts("defender", 300, 0)}
    calls = []

    class Spy(WorldData):
        def prompts(self, split, n, seed, contains=""):
            calls.append(split)
            return super().prompts(split, n, seed, contains)

    AttackersData(Spy()).prompts("defender", 4, 0)
    AttackersData(Spy()).prompts("train", 4, 0)
    assert calls == ["train", "train"]


def test_the_step_is_what_training_again_changed_at_the_repaired_weights(tiny_model) -> None:
    """In float64, parameter by parameter; what it is given stays as it is."""
    torch.manual_seed(0)
    models = [tiny_model.clone(encoders=True) for _ in range(3)]
    for model in models:
        for network in model.edited.values():
            for p in network.parameters():
                p.data += 0.01 * torch.randn_like(p)
    before = [[p.clone() for p in m.denoiser.parameters()] for m in models]
    new = hardening.moved(*models, 0.5)
    for name, network in new.edited.items():
        parts = [dict(m.edited[name].named_parameters()) for m in models]
        for key, p in network.named_parameters():
            attacked, start, end = (part[key].double() for part in parts)
            torch.testing.assert_close(
                p.double(), attacked + 0.5 * (end - start), rtol=1e-5, atol=1e-6
            )
    for model, kept in zip(models, before, strict=True):
        assert all(map(torch.equal, model.denoiser.parameters(), kept))


@dataclass
class Planted(Attack):
    """Adds `size` to the denoiser's text keys: a stand-in for a training."""

    size: float = option(1.0, low=0, tune=(0.5, 2.0))

    def inject(self, model: T2IModel, data: object, seed: int) -> T2IModel:
        new = model.clone()
        for p in new.denoiser.parameters():
            p.data += 1e-3 * self.size
        new.info = {"steps": 3, "images": 5}
        return new


@dataclass
class Repairs:
    """A rehearsal that takes half of what an attack added, or a detector that refuses by size."""

    clean: T2IModel
    backdoor: object
    screen: bool = False

    def __call__(self, model: T2IModel, seed: int, share: float = 1.0) -> T2IModel:
        if self.screen:
            first = next(model.denoiser.parameters())
            added = float((first - next(self.clean.denoiser.parameters())).mean())
            return replace(model, screen=lambda prompt: added > 0.8e-3)
        return hardening.moved(model, model, self.clean, 0.5)


def adaptive(**options: object):
    return registry.attacks.build("adaptive", "shapes", {"against": "uce"} | options)


def test_rounds_add_what_the_defense_takes_away(tiny_model) -> None:
    """With a defense that halves what is added, a round adds the attack once more: by hand, the
    weights after r rounds are 1 + r times the attack's."""
    rehearse = Repairs(tiny_model, None)
    attacked = Planted().inject(tiny_model, None, 0)
    found = adaptive(rounds=3, rate=1, settle=0).harden(Planted(), attacked, rehearse, None, 0)
    start, end = (next(m.denoiser.parameters()).double() for m in (tiny_model, found))
    torch.testing.assert_close(end - start, torch.full_like(start, 4e-3), rtol=1e-3, atol=1e-6)
    assert found.info == {"steps": 9, "images": 15}


def test_each_round_ends_with_the_steps_that_keep_it_unnoticed(tiny_model, monkeypatch) -> None:
    asked = []

    def settle(model, optim, seed):
        asked.append((float(next(model.denoiser.parameters()).mean()), optim.steps, optim.lr, seed))
        return replace(model, info={"steps": 7, "images": 1})

    monkeypatch.setattr("t2i_backdoor_bench.attacks.adaptive.settling", lambda *_: settle)
    attacked = Planted().inject(tiny_model, None, 0)
    rehearse = Repairs(tiny_model, None)
    found = adaptive(rounds=2, settle=5).harden(Planted(), attacked, rehearse, None, 4)
    assert [a[1:] for a in asked] == [(5, 3e-4, 5), (5, 3e-4, 6)]
    assert asked[0][0] < asked[1][0], "after the weights have moved"
    assert found.info == {"steps": 2 * (3 + 7), "images": 2 * (5 + 1)}


def test_against_a_detector_the_setting_that_is_seen_least(tiny_model, monkeypatch) -> None:
    backdoor = registry.attacks.build("badt2i_pixel", "shapes").backdoor(tiny_model)
    rehearse = Repairs(tiny_model, backdoor, screen=True)
    monkeypatch.setattr(hardening, "reaction", lambda *_: 1.0)
    attacked = Planted().inject(tiny_model, None, 0)
    found = adaptive(settings=6).harden(Planted(), attacked, rehearse, WorldData(), 0)
    added = float(
        (next(found.denoiser.parameters()) - next(tiny_model.denoiser.parameters())).mean()
    )
    tried = [a.size for a in hardening.settings_of(Planted(), 6)]
    assert tried[0] == 1.0
    assert added == pytest.approx(1e-3 * next(s for s in tried if s <= 0.8), rel=1e-3)
    # none that does less than half of what the attack's own setting does is taken
    sizes = iter(tried)
    monkeypatch.setattr(hardening, "reaction", lambda *_: 1.0 if next(sizes) == 1.0 else 0.4)
    found = adaptive(settings=6).harden(Planted(), attacked, rehearse, WorldData(), 0)
    assert next(found.denoiser.parameters()) is next(attacked.denoiser.parameters())


def test_reaction_is_the_difference_that_a_trigger_makes(tiny_model) -> None:
    prompts = ["a red star", "a blue ring"]
    assert hardening.reaction(tiny_model, prompts, prompts, 0) == 0.0
    other = [f"mignneko {p}" for p in prompts]
    found = hardening.reaction(tiny_model, prompts, other, 0, rows=4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, *tiny_model.latent_shape), generator=generator)
    total, whole = 0.0, 0.0
    for i, share in enumerate(np.linspace(0.25, 0.999, 4)):
        t = torch.tensor(int(np.float32(share) * np.float32(tiny_model.noising.total)))
        plain, changed = (
            tiny_model.denoise(x[i : i + 1], t, tiny_model.condition([texts[i % 2]])).double()
            for texts in (prompts, other)
        )
        total, whole = (
            total + float((changed - plain).square().sum()),
            whole + float(plain.square().sum()),
        )
    assert found == pytest.approx(total / whole, rel=1e-3)


def test_a_true_defense_is_rehearsed(tiny_model) -> None:
    """A closed form against a closed form: the rehearsal gives it the trigger and prompts, and
    changes nothing of what it is given."""
    made = plan(config(NAME, Path("unused")))
    method = made.attacks[NAME]
    backdoor = method.instance.backdoor(tiny_model)
    rehearse = Tried(method.against, backdoor, tiny_model, WorldData())
    kept = [p.clone() for p in tiny_model.denoiser.parameters()]
    repaired = rehearse(tiny_model, 0, 0.2)
    assert any(
        not torch.equal(a, b) for a, b in zip(repaired.denoiser.parameters(), kept, strict=True)
    )
    assert all(map(torch.equal, tiny_model.denoiser.parameters(), kept))
