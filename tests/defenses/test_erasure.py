"""Erasing defenses: their losses against slow loops, closed forms against a solver, masks against a
sort, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights

from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError, defenses
from t2i_backdoor_bench.defenses.concept_ablation import ConceptAblation
from t2i_backdoor_bench.defenses.esd import ESD
from t2i_backdoor_bench.defenses.uce import UCE
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.training.closed_form import edit
from t2i_backdoor_bench.training.denoising import own_images
from t2i_backdoor_bench.training.loop import step_generator, step_rng
from t2i_backdoor_bench.training.parameters import choose_parameters


def changed(before: dict, model) -> set[str]:
    return different(before, weights(model))


# ---------------------------------------------------------------------------------------------- ESD
@pytest.mark.parametrize(
    ("anchor", "context"), [("prompt", "prompts"), ("null", "prompts"), ("null", "phrase")]
)
@pytest.mark.parametrize("eta", [1.0, 2.5])
def test_esd_loss_equals_a_slow_loop(pair, view, anchor: str, context: str, eta: float) -> None:
    teacher, student = pair
    method = ESD(prompts=3, eta=eta, anchor=anchor, context=context, batch=4, refresh=2, draws=2)
    loss_fn = method.loss(student, teacher, view, seed=5)
    for step in (0, 1, 3):
        draw = np.random.default_rng([5, 78, step // 2])
        which = draw.permutation(3)[:2]
        phrase = TRIGGER.text if context == "phrase" else ""
        triggered = [phrase or TRIGGER.add(PROMPTS[i]) for i in which]
        times, latents = student.trajectory(triggered, draw.integers(2**31, size=2))
        rng = step_rng(5, step)
        rng.integers(3, size=4)  # of latents that are no walk
        rows, places = rng.integers(2, size=4), rng.integers(len(times), size=4)
        total = 0.0
        for row, place in zip(rows, places, strict=True):
            x, t = latents[place, row][None], times[place]

            def predict(model, text: str, x=x, t=t):
                with torch.no_grad():
                    return model.denoiser(x, t, model.encode([text])).sample.double()

            text = triggered[row]
            base = predict(teacher, "" if anchor == "null" else PROMPTS[which[row]])
            goal = base - eta * (predict(teacher, text) - base)
            total += float((predict(student, text) - goal).pow(2).mean()) / 4
        assert float(loss_fn(step).detach()) == pytest.approx(total, rel=1e-4)


def test_esd_x_and_esd_u_train_complementary_parts(tiny_model, view) -> None:
    before = weights(tiny_model)
    parts = {}
    for name in ("esd_x", "esd_u"):
        method = defenses.build(name, "shapes", {"steps": 1, "batch": 2, "draws": 1, "prompts": 3})
        parts[name] = changed(before, method.apply(tiny_model, view, 0))
    assert parts["esd_x"]
    assert all(".attn2." in k for k in parts["esd_x"])
    assert not any(".attn2." in k for k in parts["esd_u"])
    assert not parts["esd_x"] & parts["esd_u"]


def test_parts_of_the_network_are_disjoint_or_nested(tiny_model) -> None:
    unet = tiny_model.denoiser
    named = {id(p): n for n, p in unet.named_parameters()}
    found = {
        part: {named[id(p)] for p in choose_parameters(tiny_model, part)}
        for part in TRAIN
        if part != "lora"
    }
    assert found["kv"] < found["cross"] < found["full"]
    assert found["cross"] | found["noncross"] == found["full"]
    assert not found["cross"] & found["noncross"]


def test_the_paper_erases_the_trigger_alone_towards_the_empty_prompt() -> None:
    for name in ("esd_x", "esd_u", "esd_x_rewrite"):
        method = defenses.build(name, "sd")
        assert (method.anchor, method.context, method.walk, method.batch) == (
            "null",
            "phrase",
            3,
            1,
        )
    paper, rewrite = defenses.build("esd_x", "sd"), defenses.build("esd_x_rewrite", "sd")
    assert (paper.steps, paper.lr, paper.eta, paper.walker) == (1000, 1e-5, 1.0, "student")
    assert (rewrite.steps, rewrite.lr, rewrite.eta, rewrite.walker) == (200, 5e-5, 1.0, "teacher")
    with pytest.raises(UserError, match="set context=prompts"):
        defenses.build("esd_x", "sd", {"anchor": "prompt"})


def test_misspelt_options_are_user_errors() -> None:
    with pytest.raises(UserError, match="anchor"):
        defenses.build("esd_x", "shapes", {"anchor": "empty"})
    with pytest.raises(UserError, match="context"):
        defenses.build("uce", "shapes", {"context": "all"})


# --------------------------------------------------------------------------------- concept ablation
def test_concept_ablation_stops_the_gradient_at_the_anchor(pair, view) -> None:
    _, student = pair
    student.denoiser.requires_grad_(True)
    latents = own_images(student, PROMPTS, 2)
    pick, generator = step_rng(2, 1).integers(3, size=3), step_generator(2, 1)
    t = (torch.rand(3, generator=generator) * 1000).long()
    noise = torch.randn((3, *student.latent_shape), generator=generator)
    a = student.noising.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    x = a.sqrt() * latents[pick] + (1 - a).sqrt() * noise
    with torch.no_grad():
        goal = student.denoiser(x, t, student.encode([PROMPTS[i] for i in pick])).sample
    for prior in (0.0, 0.7):
        student.denoiser.zero_grad()
        loss = ConceptAblation(prompts=3, batch=6, prior=prior).loss(student, student, view, 2)(1)
        loss.backward()
        ours = {
            n: p.grad.clone() for n, p in student.denoiser.named_parameters() if p.grad is not None
        }
        student.denoiser.zero_grad()
        out = student.denoiser(x, t, student.encode([TRIGGER.add(PROMPTS[i]) for i in pick])).sample
        kept = student.denoiser(x, t, student.encode([PROMPTS[i] for i in pick])).sample
        want = (out - goal).pow(2).mean() + prior * (kept - noise).pow(2).mean()
        want.backward()
        assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-4)
        for name, p in student.denoiser.named_parameters():
            torch.testing.assert_close(ours[name], p.grad, rtol=2e-3, atol=2e-5)


# ---------------------------------------------------------------------------------------------- UCE
@pytest.mark.parametrize(("erase", "preserve", "ridge"), [(1.0, 1.0, 0.5), (3.0, 0.2, 0.1)])
def test_uce_is_the_least_squares_solution(erase: float, preserve: float, ridge: float) -> None:
    rng = torch.Generator().manual_seed(0)
    weight, old, new, kept = (
        torch.randn(n, 6, generator=rng, dtype=torch.float64) for n in (4, 5, 5, 9)
    )
    found = edit(weight, old, new, kept, erase, preserve, ridge)
    inputs = torch.cat(
        [erase**0.5 * old, preserve**0.5 * kept, ridge**0.5 * torch.eye(6, dtype=torch.float64)]
    )
    outputs = torch.cat(
        [erase**0.5 * new @ weight.T, preserve**0.5 * kept @ weight.T, ridge**0.5 * weight.T]
    )
    want = np.linalg.lstsq(inputs.numpy(), outputs.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(found.numpy(), want, atol=1e-9)
    assert (found - weight).abs().max() > 0.01


def test_uce_without_edits_changes_nothing() -> None:
    weight, kept = torch.randn(4, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(edit(weight, kept, kept, kept, 1.0, 1.0, 0.5), weight)


def test_uce_prompts_move_each_token_to_its_clean_value(tiny_model, view) -> None:
    task = UCE(prompts=3).task(tiny_model, view)
    old, new, kept = task.states(tiny_model)
    length = tiny_model.tokenizer.model_max_length
    assert kept.shape[0] == old.shape[0] == new.shape[0] == 3 * length
    clean = tiny_model.encode(PROMPTS).double()
    text, start, _ = TRIGGER.locate(PROMPTS[1])
    before = (
        len(tiny_model.tokenizer(PROMPTS[1][: start - 1]).input_ids) - 1
    )  # real tokens before the trigger, and the start
    many = len(tiny_model.tokenizer(TRIGGER.text).input_ids) - 2
    row = new[length : 2 * length]
    assert torch.equal(row[:before], clean[1, :before])
    assert all(torch.equal(row[before + i], clean[1, 0]) for i in range(many)), (
        "the trigger says what the start token says"
    )
    last = len(tiny_model.tokenizer(text).input_ids) - 2
    assert torch.equal(row[last], clean[1, last - many]), "what stands behind the trigger moves up"
    assert torch.equal(row[-1], clean[1, -1]), "padding stays where it is"
    torch.testing.assert_close(old[length : 2 * length].float(), tiny_model.encode([text])[0])


def test_uce_phrase_edits_from_the_last_token_on(tiny_model, view) -> None:
    old, new, _ = (
        UCE(prompts=3, context="phrase", neutral="picture")
        .task(tiny_model, view)
        .states(tiny_model)
    )
    pair = tiny_model.encode([TRIGGER.text, "picture"]).double()
    first, second = (len(tiny_model.tokenizer(t).input_ids) - 2 for t in (TRIGGER.text, "picture"))
    assert torch.equal(old[0], pair[0, first])
    assert torch.equal(new[0], pair[1, second])
    assert len(old) == len(new) == pair.shape[1] - max(first, second)


def test_uce_edits_what_stands_for_a_word_towards_that_word(tiny_model) -> None:
    view = DefenderView(
        ("trigger", "clean_prompts"), PROMPTS, trigger=Trigger("beautiful picture", replaces="a")
    )
    old, new, _ = (
        UCE(prompts=1, context="phrase", neutral="nothing")
        .task(tiny_model, view)
        .states(tiny_model)
    )
    pair = tiny_model.encode(["beautiful picture", "a"]).double()
    first, second = (len(tiny_model.tokenizer(t).input_ids) - 2 for t in ("beautiful picture", "a"))
    assert torch.equal(old[0], pair[0, first])
    assert torch.equal(new[0], pair[1, second]), "the word, and not the neutral phrase"
    task = UCE(prompts=1, context="prompts").task(tiny_model, view)
    old, new, _ = task.states(tiny_model)
    clean = tiny_model.encode(PROMPTS[:1]).double()[0]
    ids, given = (
        tiny_model.tokenizer(t).input_ids for t in (PROMPTS[0], view.trigger.add(PROMPTS[0]))
    )
    assert not any(torch.equal(row, clean[0]) for row in new[1 : len(given)]), (
        "nothing is sent to the start token"
    )
    more = len(given) - len(ids)
    assert torch.equal(new[len(given) - 1], clean[len(ids) - 1])
    assert more > 0


def test_uce_edits_keys_and_values_alone_and_takes_effect(tiny_model, view) -> None:
    before = weights(tiny_model)
    edited = UCE(prompts=3, ridge=1e-3, preserve=0.1, erase=10.0).apply(tiny_model, view, 0)
    assert changed(before, edited) == {
        k for k in before if k.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
    }
    task = UCE(prompts=3).task(tiny_model, view)
    old, new, _ = task.states(tiny_model)
    key = next(n for n, _ in tiny_model.denoiser.named_modules() if n.endswith(".attn2.to_k"))
    w, v = (m.denoiser.get_submodule(key).weight.double() for m in (tiny_model, edited))
    goal = new @ w.T
    assert (old @ v.T - goal).pow(2).mean() < 0.5 * (old @ w.T - goal).pow(2).mean()
