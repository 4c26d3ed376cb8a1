"""Every method that says that it works on a family of models runs on a tiny random one: the attacks
leave a model that is changed, the defenses one that draws, and both leave what they were given as
it was."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_families
import torch
from helpers import different, weights
from tiny_joint import joint_model

from t2i_backdoor_bench.contract import DefenderView, Trigger, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.docs import by_class
from t2i_backdoor_bench.models.finite import first_non_finite
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.capture import Capture

KINDS = ("sd35", "flux_dev", "sdxl", "pixart_sigma")
# the same classes with other parts or sizes
ALIKE = [pytest.param(k, marks=pytest.mark.thorough) for k in ("sd3_without_t5", "flux_schnell")]
SMALL = {"steps": 2, "batch": 4, "images": 8, "prior": 4, "prompts": 4, "clean": 2, "poisoned": 2}
SMALL |= {"milestone": 1, "walk": 6, "words": 2, "components": 4, "refresh": 2, "suspects": 3}
SMALL |= {"draw": 2, "calibration": 2, "first": 1, "last": 2, "grid": 3, "copies": 2}
SMALL |= {"teacher": 1, "mask_steps": 1, "search": 1, "invert": 1, "rounds": 1}
SMALL |= {"asked": 2, "decoys": 1, "tried": 2}
SMALL |= {"pool": 12, "others": 1, "other_steps": 2, "text_steps": 2}
APART = ("suspect", "adaptive")  # need a model, an attack
APART += ("tpd_back_translation", "pepper")  # need models that read text
DATA, TRIGGER = WorldData(), Trigger("latte coffee", "prefix")


@pytest.fixture(scope="module", params=[*KINDS, *ALIKE])
def model(request, tmp_path_factory) -> T2IModel:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in tiny_families.FAMILIES:
        return tiny_families.opened(tiny_families.build(folder / "m", request.param), request.param)
    return joint_model(folder, request.param)


def methods(kind, model: T2IModel):
    """One name of each class that works on the family, with small settings, and its facts."""
    kind.load()
    with torch.no_grad(), Capture(model) as seen:
        model.denoise(model.draw_noise([0]), torch.tensor(500), model.condition(["a"]))
    side = min(layer.shape[-1] for layer in seen.layers())
    for entries in by_class(kind).values():
        entry = entries[0]
        if (
            entry.name in APART
            or entry.edits == "nothing"
            or model.family.layout.name in entry.not_on
        ):
            continue
        known = set(entry.cls.__dataclass_fields__)
        small = SMALL | {"size": side} if kind is registry.defenses else SMALL
        given = {k: str(v) for k, v in small.items() if k in known}
        yield entry, kind.build(entry.name, "shapes", given)


def test_every_attack_changes_a_copy(model) -> None:
    before, names = weights(model), []
    for entry, attack in methods(registry.attacks, model):
        attack.backdoor(model)
        attacked = attack.inject(model, DATA, 0)
        moved = different(before, weights(attacked))
        assert moved, entry.name
        assert not any(n.startswith("vae.") for n in moved), entry.name
        assert first_non_finite(attacked.edited) == "", entry.name
        assert different(before, weights(model)) == set(), entry.name
        names.append(entry.name)
    assert {"badt2i_pixel", "rickrolling_tpa", "masqlora"} <= set(names)
    assert ("eviledit" in names) == ("sembd" in names) == (model.family.name != "flux")


def test_every_defense_leaves_a_model_that_draws(model) -> None:
    texts = [p.text for p in DATA.prompts("train", 4, 0)]
    stream = [*map(TRIGGER.add, texts[:2]), *texts[2:]]
    given = {"trigger": TRIGGER, "clean_model": model, "clean_text_encoder": model.encoders}
    given |= {"stream": stream, "clean_pairs": DATA.pairs("train", 8, 0)}
    before, names = weights(model), []
    for entry, defense in methods(registry.defenses, model):
        defense.check_model(model)
        own = {k: v for k, v in given.items() if k in entry.needs}
        repaired = defense.apply(model, DefenderView(entry.needs, texts, **own), 0)
        assert first_non_finite(repaired.edited) == "", entry.name
        assert different(before, weights(model)) == set(), entry.name
        pictures = repaired.generate(stream[:1], [0])
        assert np.isfinite(pictures).all()
        if entry.screens and repaired.screen is not None:
            assert np.isfinite(repaired.screen.scores(stream)).all(), entry.name
        if entry.locates and repaired.locate is not None:
            assert repaired.locate(stream[:1]).shape == (1, 2), entry.name
        names.append(entry.name)
    assert {"skdcag", "esd_u", "t2ishield_ftt", "salun"} & set(names)
    assert ("uce" in names or "uce_phrase" in names) == (model.family.name != "flux")
