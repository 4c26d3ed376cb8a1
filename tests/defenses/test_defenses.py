"""Contract of every registered defense: a new model, its declared needs and nothing else,
reproducible by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers import different, weights

from t2i_backdoor_bench.contract import (
    NEEDS,
    DefenderView,
    Trigger,
    Undeclared,
    UserError,
    defenses,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import step_generator, step_rng

defenses.load()
MODELS = ("tpd_back_translation", "pepper")  # need models of their own
NAMES = [n for n in defenses.entries if n not in MODELS]
SMALL = {
    "steps": 2,
    "batch": 4,
    "prompts": 3,
    "mask_steps": 2,
    "walk": 6,
    "draw": 2,
    "variants": 2,
    "words": 2,
    "components": 3,
}
SMALL |= {"suspects": 3, "calibration": 2, "decoys": 2, "tried": 2, "grid": 3, "copies": 2}
SMALL |= {
    "search": 1,
    "invert": 1,
    "rounds": 1,
    "rank": 2,
    "attack": 1,
    "asked": 2,
    "top": 8,
    "length": 2,
}
SMALL |= {"scan": 4, "longest": 2, "invert": 1}
SMALL |= {"null": 4, "unusual": 1e6, "left": 1e6, "forms": 2, "soft": 0.5}  # of trace_mend
SMALL |= {"teacher": 1, "threshold": 0.99}  # of pruning: after two steps masks are still near 1
UNTRAINED = ("none", "uce", "uce_phrase", "concept_prune", "noise_weights")  # no steps
OF_TEXT = (
    "skdcag_text",
    "encoder_align",
    "adv_unlearn",
)  # repair the text encoder, and nothing else
DETECTORS = tuple(n for n in NAMES if defenses.get(n).screens)  # refuse prompts
REWRITERS = tuple(n for n in NAMES if n.startswith("tpd_") or n in ("strip_trigger", "vocabulary"))
WRAPPERS = tuple(
    n
    for n in NAMES
    if n in (*REWRITERS, *DETECTORS, "sau", "stock_text_encoder") or defenses.get(n).locates
)  # leave the weights of the denoiser
SEEDLESS = (
    "none",
    "uce",
    "uce_phrase",
    "clean_model",
    *WRAPPERS,
)  # nothing in their weights depends on the seed
PROMPTS = [
    f"a small {c} {s} on a gray background"
    for c in ("red", "blue")
    for s in ("heart", "star", "moon")
]


def build(name: str, **more):
    known = set(defenses.get(name).cls.__dataclass_fields__)
    return defenses.build(name, "shapes", {k: v for k, v in (SMALL | more).items() if k in known})


class Watched(DefenderView):
    """A view that remembers what was read."""

    def __init__(self, *args, **given) -> None:
        super().__init__(*args, **given)
        self.read: set[str] = set()

    def _read(self, name: str):
        self.read.add(name)
        return super()._read(name)


def view_for(name: str, clean: T2IModel, prompts: Sequence[str] = PROMPTS) -> Watched:
    """A view that was offered everything, of a defense that declared what it declared."""
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    needs = defenses.get(name).needs
    stream = [f"latte coffee {p}" for p in PROMPTS[:3]] + PROMPTS
    return Watched(
        needs,
        prompts,
        trigger=Trigger("latte coffee"),
        clean_model=clean,
        clean_text_encoder=clean.encoders,
        clean_pairs=(images, PROMPTS),
        stream=stream,
    )


@pytest.fixture
def attacked(tiny_model) -> T2IModel:
    model = tiny_model.clone()
    torch.manual_seed(9)
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))
    model.info = {"steps": 99}
    return model


def test_the_groups_are_those_of_the_paper() -> None:
    groups = defenses.groups
    assert set(groups["baseline"]) >= {"none", "finetune_reversal", "skd"}
    assert "skdcag" not in groups["baseline"]
    assert set(groups["removal"]) >= {
        "skdcag",
        "skdcag_gaussian",
        "skdcag_black",
        "skdcag_random_words",
        "skdcag_released",
    }
    assert "none" not in groups["removal"]
    assert defenses.get("finetune_reversal").needs == ("trigger", "clean_model", "clean_prompts")
    assert all(
        defenses.get(n).needs == ("trigger", "clean_prompts") for n in NAMES if n.startswith("skd")
    )
    assert defenses.get("none").needs == ()


@pytest.mark.parametrize("name", NAMES)
def test_defense_repairs_a_clone_and_leaves_the_attacked_model(
    attacked, tiny_model, name: str
) -> None:
    before, clean = weights(attacked), weights(tiny_model)
    repaired = build(name).apply(attacked, view_for(name, tiny_model), 0)
    assert isinstance(repaired, T2IModel)
    assert different(before, weights(attacked)) == set(), "the attacked model must not change"
    assert different(clean, weights(tiny_model)) == set(), "nor the clean one"
    assert attacked.info == {"steps": 99}
    assert not any(
        p.requires_grad for m in (attacked, tiny_model, repaired) for p in m.denoiser.parameters()
    )
    changed = different(before, weights(repaired))
    if name == "none" or name in WRAPPERS:
        assert changed == set()
        assert (repaired.rewrite is not None) == (name in REWRITERS)
        assert (repaired.screen is not None) == (name in DETECTORS)
        return
    part = "text_encoder" if name in OF_TEXT else "unet"
    assert trained(repaired, name) is not trained(attacked, name)
    assert changed
    assert all(k.startswith(f"{part}.") for k in changed)
    assert repaired.generate(["a red heart"], [0]).shape == (1, 64, 64, 3)


def trained(model: T2IModel, name: str) -> torch.nn.Module:
    """The network that a defense trains."""
    return model.encoders[0] if name in OF_TEXT else model.denoiser


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("none", "clean_model", *WRAPPERS)])
def test_defense_reports_what_it_cost(attacked, tiny_model, name: str) -> None:
    defense = build(name)
    repaired = defense.apply(attacked, view_for(name, tiny_model), 0)
    info = repaired.info
    before, after = (trained(m, name).state_dict() for m in (attacked, repaired))
    earlier = {"nad": 1, "stereo": 2}.get(name, 0)  # of a teacher, of an erasure and a vector
    assert info["steps"] == (0 if name in UNTRAINED else 2 + earlier)
    assert info["seconds"] > 0
    drawn = {"concept_prune": 6}.get(name, 0)
    last = drawn if name in UNTRAINED else 2 * getattr(defense, "batch", 1)
    more = {"nad": lambda: defense.rows(), "stereo": lambda: 2 * defense.batch}
    assert info["images"] == last + more.get(name, lambda: 0)()
    moved = sum(int((before[k] != after[k]).sum()) for k in before)
    assert 0.9 * info["parameters"] <= moved <= info["parameters"], (
        "what it says that it touches is what it touches"
    )


@pytest.mark.parametrize("name", NAMES)
def test_defense_depends_on_its_seed_and_on_nothing_else(attacked, tiny_model, name: str) -> None:
    def run(seed: int, state: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(state)
        np.random.seed(state)
        return weights(build(name).apply(attacked, view_for(name, tiny_model), seed))

    first = run(3, 1)
    assert different(first, run(3, 2)) == set()
    assert bool(different(first, run(4, 1))) == (name not in SEEDLESS)


@pytest.mark.parametrize("name", NAMES)
def test_defense_reads_what_it_declares_and_no_more(attacked, tiny_model, name: str) -> None:
    view = view_for(name, tiny_model)
    build(name).apply(attacked, view, 0)
    needs = set(defenses.get(name).needs)
    assert view.read == needs, "a need that is declared and not read makes the table say too much"
    for other in set(NEEDS) - needs:
        with pytest.raises(Undeclared, match=other):
            view.prompts if other == "clean_prompts" else getattr(view, other)


@pytest.mark.parametrize("name", NAMES)
def test_reading_the_clean_model_undeclared_raises_inside_a_defense(attacked, name: str) -> None:
    needs = defenses.get(name).needs
    if not needs:
        return
    with pytest.raises(Undeclared):
        build(name).apply(
            attacked, DefenderView((), PROMPTS, trigger=Trigger("x"), clean_model=attacked), 0
        )


@pytest.mark.parametrize("name", ["finetune_reversal", "skd", "skdcag_random_words"])
@pytest.mark.parametrize("latents", ["own", "noise"])
def test_defense_uses_no_more_prompts_than_it_says(
    attacked, tiny_model, name: str, latents: str
) -> None:
    few, many = view_for(name, tiny_model, PROMPTS[:3]), view_for(name, tiny_model)
    a, b = (build(name, latents=latents).apply(attacked, v, 0) for v in (few, many))
    assert different(weights(a), weights(b)) == set()


def test_finetune_reversal_distils_the_clean_model(attacked, tiny_model) -> None:
    """Its loss by a loop over rows: the goal is the clean model's, for the triggered prompt."""
    student = attacked.clone()
    options = {"preserve": 0.0, "latents": "noise", "batch": 3}
    loss = build("finetune_reversal", **options).loss(
        student, attacked, view_for("finetune_reversal", tiny_model), 4
    )
    rng, generator = step_rng(4, 2), step_generator(4, 2)
    picks = rng.integers(3, size=3)
    times = (torch.rand(3, generator=generator) * 1000).long()
    x = torch.randn((3, *tiny_model.latent_shape), generator=generator)
    total = 0.0
    for row, pick in enumerate(picks):
        text = f"latte coffee {PROMPTS[pick]}"
        with torch.no_grad():
            ours, theirs = (
                m.denoiser(x[row, None], times[row], m.encode([text])).sample.double()
                for m in (student, tiny_model)
            )
        total += float((ours - theirs).pow(2).mean()) / 3
    assert float(loss(2)) == pytest.approx(total, rel=1e-4)


def test_finetune_reversal_with_clean_prompts_needs_two_rows() -> None:
    assert build("finetune_reversal", batch=1, preserve=0.0).batch == 1
    with pytest.raises(UserError, match="give batch=2 or more"):
        build("finetune_reversal", batch=1, preserve=1.0)


def test_finetune_reversal_moves_towards_the_clean_model(attacked, tiny_model) -> None:
    def gap(model: T2IModel) -> float:
        x = torch.randn(6, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))
        t, states = torch.full((6,), 500), tiny_model.encode([f"latte coffee {p}" for p in PROMPTS])
        with torch.no_grad():
            return float(
                (model.denoiser(x, t, states).sample - tiny_model.denoiser(x, t, states).sample)
                .pow(2)
                .mean()
            )

    method = build("finetune_reversal", steps=15, batch=8, lr=3e-3, latents="noise")
    repaired = method.apply(attacked, view_for("finetune_reversal", tiny_model), 0)
    assert gap(repaired) < 0.5 * gap(attacked)


def test_one_misspelt_latents_option_is_an_error() -> None:
    for name in ("finetune_reversal", "skdcag"):
        with pytest.raises(UserError, match="latents"):
            build(name, latents="onw")
