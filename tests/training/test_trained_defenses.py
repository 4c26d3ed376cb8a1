"""What every defense that trains has from one base: the preserving term, the average, the falling
rate, the part that trains, and the latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, UserError, defenses, options_of
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.rows import LATENTS, Drawn, Noised, RowSampler, prompt_sampler
from t2i_backdoor_bench.training.trained_defense import PromptDefense, TrainedDefense

defenses.load()
NAMES = [n for n, e in defenses.entries.items() if issubclass(e.cls, TrainedDefense)]
# one of each class
CLASSES = list({defenses.get(n).cls: n for n in NAMES}.values())
KINDS = {"salun": 2, "concept_ablation": 2}  # kinds of student rows beside the preserving ones
SMALL = {"prompts": 3, "drop": 0.5, "mask_steps": 1, "refresh": 2, "steps": 2, "lr": 1e-3}
SMALL |= {"copies": 2, "teacher": 1, "search": 1, "invert": 1, "rounds": 1, "rank": 2}
# trace_mend: nothing is unusual, and one training is enough
SMALL |= {"asked": 2, "null": 4, "unusual": 1e6, "left": 1e6, "forms": 2}
SEED, STEP = 4, 1
# prunes what it then trains; searches first, with the same options; traces first, and preserves
# other texts too (tests/defenses/test_trace_mend.py)
CHANGES_FIRST = ("fine_prune", "stereo", "trace_mend")


def build(name: str, **more):
    known = options_of(defenses.get(name).cls)
    found = {k: v for k, v in (SMALL | more).items() if k in known}
    return defenses.build(name, "shapes", found)


def full_view(name: str, clean: T2IModel) -> DefenderView:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    return DefenderView(
        defenses.get(name).needs,
        PROMPTS,
        trigger=TRIGGER,
        clean_model=clean,
        clean_pairs=(pictures, PROMPTS),
    )


@pytest.fixture
def double(pair):
    """The pair of models in float64."""
    torch.set_default_dtype(torch.float64)
    for model in pair:
        model.pipe.to(torch.float64)
    yield pair
    torch.set_default_dtype(torch.float32)


def gradient(loss: Tensor, student: T2IModel) -> Tensor:
    params = list(student.denoiser.parameters())
    found = torch.autograd.grad(loss, params, allow_unused=True)
    parts = [(torch.zeros_like(p) if g is None else g) for p, g in zip(params, found, strict=True)]
    return torch.cat([g.flatten() for g in parts])


def sampled(method: TrainedDefense, name: str, models, view: DefenderView, n: int) -> Drawn:
    """What a step draws, by the sampler that the tests of the methods compare with loops."""
    student, attacked = models
    if isinstance(method, PromptDefense):
        alone = vars(method).get("context") == "phrase"
        triggered = [TRIGGER.text if alone else TRIGGER.add(p) for p in PROMPTS]
        shown = triggered if name in ("salun", "mace") else None
        walker = attacked if name == "adv_unlearn" else None
        many = vars(method).get("draws")
        sampler = prompt_sampler(
            method.drawing, student, attacked, PROMPTS, triggered, SEED, shown, walker, many
        )
    else:
        pictures = attacked.latents(view.clean_pairs[0], SEED)
        sampler = RowSampler(SEED, Noised(student, pictures, 3), method.drop)
    return sampler(STEP, n)


def slow_preserving(drawn: Drawn, student: T2IModel, teacher: T2IModel) -> Tensor:
    """The mean squared distance for clean prompts, one row at a time."""
    total, kept = torch.zeros(()), drawn.kept
    for row, (pick, gone) in enumerate(zip(kept.pick.tolist(), drawn.gone.tolist(), strict=True)):
        text = "" if gone else PROMPTS[pick]
        x, t = kept.x[row, None], kept.t[row, None]
        with torch.no_grad():
            goal = teacher.denoiser(x, t, teacher.encode([text])).sample
        out = student.denoiser(x, t, student.encode([text])).sample
        total = total + (out - goal).pow(2).mean() / len(kept.pick)
    return total


# of all latents these; the others, which draw them by the same code, before a release
EACH_LATENTS = ("skd", "finetune_reversal", "salun", "concept_ablation")
CHOICE = [n for n in NAMES if "latents" in options_of(defenses.get(n).cls)]  # others: pictures
PRESERVING = [
    pytest.param(
        name,
        latents,
        marks=pytest.mark.thorough
        if name in CHOICE and latents != "noise" and name not in EACH_LATENTS
        else (),
    )
    for name in dict.fromkeys([*CLASSES, "skd", "skdcag_random_words", "esd_x_prompt"])
    for latents in (LATENTS if name in CHOICE else ("own",))
    if name not in CHANGES_FIRST
]


@pytest.mark.parametrize(("name", "latents"), PRESERVING)
def test_preserving_changes_the_gradient_by_its_term_alone(double, name: str, latents: str) -> None:
    attacked, student = double
    student.denoiser.requires_grad_(True)
    clean = attacked.clone()
    with torch.no_grad():
        for p in clean.denoiser.parameters():
            p.mul_(1.02)
    view, n = full_view(name, clean), 4
    kinds = KINDS.get(name, 1) + (name == "concept_ablation" and latents != "own")
    options = {"latents": latents, "batch": n * (kinds + 1)}
    found = []
    for preserve in (2.0, 5.0):
        method = build(name, preserve=preserve, **options)
        found.append(gradient(method.loss(student, attacked, view, SEED)(STEP), student))
    drawn = sampled(method, name, (student, attacked), view, n)
    teacher = clean if name == "finetune_reversal" else attacked
    term = gradient(slow_preserving(drawn, student, teacher), student)
    share = 1 - vars(method).get("alpha", 0.0) if name.startswith("skd") else 1.0
    assert term.norm() > 0
    torch.testing.assert_close(found[1] - found[0], 3 * share * term, rtol=1e-6, atol=1e-9)
    if latents == "trajectory":
        return  # without preserving it draws other prompts' trajectories
    alone = build(name, preserve=0.0, **options | {"batch": n * kinds})
    without = gradient(alone.loss(student, attacked, view, SEED)(STEP), student)
    torch.testing.assert_close(found[0] - without, 2 * share * term, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CLASSES)
def test_what_belongs_to_the_training_takes_effect(tiny_model, name: str) -> None:
    clean = tiny_model.clone()
    torch.manual_seed(5)
    with torch.no_grad():
        for p in clean.denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))
    view, known = full_view(name, clean), options_of(defenses.get(name).cls)
    parts = known["train"][1].choices
    own = "cross" if "cross" in parts else parts[0]

    def run(**more) -> dict[str, Tensor]:
        options = {"batch": 4, "preserve": 0.0, "ema": 0.0, "decay": 0.0, "train": own} | more
        options |= {"steps": 4} if "copies" in known else {}  # two of each copy
        return weights(build(name, **options).apply(tiny_model, view, 0))

    plain, before = run(), weights(tiny_model)
    assert different(plain, before)
    for option in ({"ema": 0.9}, {"decay": 1.0}, {"preserve": 1.0}):
        assert different(plain, run(**option)), option
    if "kv" in parts:
        moved = different(run(train="kv"), before)
        assert moved
        assert all(".attn2.to_k." in k or ".attn2.to_v." in k for k in moved)
    if TEXT in parts:
        assert all(k.startswith("text_encoder.") for k in different(run(train=TEXT), before))
    if "latents" in known:
        drawn = [run(latents=latents) for latents in LATENTS]
        assert all(different(a, b) for a, b in zip(drawn, drawn[1:] + drawn[:1], strict=True))


TEXT = "text_encoder"


# to be what the released code is; no weight of the model trains; text encoders on texts alone
OTHERWISE = ("skdcag_released", "amdet", "anp", "encoder_align")


def test_every_defense_with_steps_has_the_options_of_the_base() -> None:
    known = set(options_of(TrainedDefense))
    for name, entry in defenses.entries.items():
        own = set(options_of(entry.cls))
        assert not {"steps", "lr"} <= own or known <= own or name in OTHERWISE, name
    assert len(NAMES) > 15


def test_a_row_cannot_be_shared_with_clean_prompts() -> None:
    for name in NAMES:
        if "preserve" not in defenses.get(name).preset:
            with pytest.raises(UserError, match="give batch=2 or more"):
                build(name, batch=1, preserve=1.0)
