"""MACE, AdvUnlearn, Receler and STEREO: their losses against loops, and merged maps against
hooks."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights

from t2i_backdoor_bench.contract import defenses, family_defaults
from t2i_backdoor_bench.defenses import adv_unlearn, mace, receler, stereo
from t2i_backdoor_bench.training.alignment import align_states
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.denoising import own_images
from t2i_backdoor_bench.training.erasers import Erasers, focal_times, marked_attention, outside
from t2i_backdoor_bench.training.loop import step_generator
from t2i_backdoor_bench.training.removal import of_prompts

defenses.load()
TRIGGERED = [TRIGGER.add(p) for p in PROMPTS]


def predict(model, drawn, row: int, text: str) -> torch.Tensor:
    """One row's prediction, float64."""
    x, t = drawn.rows.x[row, None], drawn.rows.t[row, None]
    with torch.no_grad():
        return model.denoise(x, t, model.condition([text])).double()


# ----- MACE
def test_mace_attention_is_the_mean_square_over_marked_tokens() -> None:
    maps = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    marked = torch.tensor([[False, True, True, False, False], [False, False, True, False, False]])
    places = [(0, 1), (0, 2), (1, 2)]
    expected = sum(float((maps[n, k] ** 2).mean()) for n, k in places) / 3
    assert float(marked_attention(maps, marked)) == pytest.approx(expected, rel=1e-5)


def test_mace_edits_what_stands_beside_the_trigger(tiny_model, view) -> None:
    task = mace.MACE(prompts=3).task(tiny_model, view)
    old, new, _ = task.states(tiny_model)
    length, many = tiny_model.states, len(tiny_model.tokenizer(TRIGGER.text).input_ids) - 2
    assert len(old) == len(new) == 3 * (length - many), "the trigger's own tokens are left out"
    clean = tiny_model.encode(PROMPTS[:1])[0].double()
    last = len(tiny_model.tokenizer(PROMPTS[0]).input_ids) - 2
    moved = (new[: length - many] - clean[last]).abs().sum(1) == 0
    assert int(moved.sum()) >= 1, "the last word becomes what it is in the clean prompt"
    before, repaired = weights(tiny_model), mace.MACE(steps=2, batch=4, prompts=3)
    after = weights(repaired.apply(tiny_model, view, 0))
    changed = [k for k in before if not torch.equal(before[k], after[k])]
    assert changed
    assert all(".attn2.to_k." in k or ".attn2.to_v." in k for k in changed)


def test_mace_draws_timesteps_where_pictures_take_their_concept() -> None:
    """Against the weights of the released code, one timestep at a time."""
    weight = [
        1 / (1 + math.exp(-0.05 * (t - 200))) - 1 / (1 + math.exp(-0.05 * (t - 400)))
        for t in range(1000)
    ]
    drawn = focal_times(1000, 40_000, torch.Generator().manual_seed(0))
    for low, high in ((0, 150), (150, 250), (250, 350), (350, 450), (450, 1000)):
        share = float(((drawn >= low) & (drawn < high)).float().mean())
        assert share == pytest.approx(sum(weight[low:high]) / sum(weight), abs=0.01)


@pytest.mark.parametrize("focal", [True, False])
def test_mace_loss_is_on_pictures_of_the_trigger_by_the_attacked_model(
    pair, view, focal: bool
) -> None:
    attacked, student = pair
    method = mace.MACE(prompts=3, batch=3, focal=focal)
    found = float(method.loss(student, attacked, view, 4)(2).detach())
    pictures = own_images(attacked, TRIGGERED, 4)
    drawn, total = of_prompts(method, student, attacked, view, 4, shown=True).sampler(2, 3), 0.0
    t = focal_times(1000, 3, step_generator(5, 2)) if focal else drawn.rows.t
    aligned = align_states(student.text_parts, TRIGGER, PROMPTS)
    for row, pick in enumerate(drawn.rows.pick.tolist()):
        one, noise = pictures[pick, None], drawn.rows.noise[row, None]
        x = student.noising.add(one, noise, t[row, None])
        with Capture(student) as seen, torch.no_grad():
            student.denoise(x, t[row, None], student.condition([TRIGGERED[pick]]))
        for maps in seen.layers():
            total += float(maps[0, aligned.trigger[pick]].square().sum((-2, -1)).sum()) / (
                maps.shape[-1] ** 2 * len(seen)
            )
    many = sum(int(aligned.trigger[pick].sum()) for pick in drawn.rows.pick.tolist())
    assert found == pytest.approx(total / many, rel=1e-3)


# ----- erasers
def test_merged_erasers_compute_what_the_hooks_did(tiny_model) -> None:
    student = tiny_model.clone()
    x, t, told = (
        student.draw_noise([0, 1]),
        torch.tensor([300, 600]),
        student.condition(PROMPTS[:2]),
    )
    erasers = Erasers(student, 3, 0)
    with torch.no_grad():
        torch.testing.assert_close(student.denoise(x, t, told), tiny_model.denoise(x, t, told))
        for p in erasers.parameters:
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        hooked = student.denoise(x, t, told)
        assert not torch.allclose(hooked, tiny_model.denoise(x, t, told), atol=1e-3)
        apart = (torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(2)) < 0.5).float()
        total = 0.0
        for more in erasers.outputs.values():
            side = round(more.shape[1] ** 0.5)
            step = 8 // side
            sums = count = 0.0
            for n in range(2):
                for place in range(side * side):
                    if apart[n, place // side * step, place % side * step]:
                        sums += float((more[n, place] ** 2).mean())
                        count += 1
            total += sums / count / len(erasers.outputs)
        assert float(erasers.size(apart)) == pytest.approx(total, rel=1e-4)
        numbers = erasers.merge()
        merged = student.denoise(x, t, told)
    torch.testing.assert_close(merged, hooked, rtol=1e-3, atol=1e-5)
    assert numbers == sum(p.numel() for e in erasers.pairs for p in e.parameters())


def test_the_outside_is_where_the_trigger_is_not_attended() -> None:
    maps = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    marked = torch.tensor([[False, True, True]])
    mean = (maps[0, 1] + maps[0, 2]) / 2
    scaled = (mean - mean.min()) / (mean.max() - mean.min())
    assert torch.equal(outside(maps, marked, 0.4)[0], (scaled < 0.4).float())


# ----- losses
def test_receler_loss_against_a_loop(pair, view) -> None:
    attacked, student = pair
    method = receler.Receler(prompts=3, batch=3, rank=2, eta=0.7, local=0.0, attack=0)
    loss = method.loss(student, attacked, view, 4)
    with torch.no_grad():
        for p in loss.erasers.parameters:
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    drawn, total = loss.room.sampler(2, 3), 0.0
    for row, pick in enumerate(drawn.rows.pick.tolist()):
        bad, good = (predict(attacked, drawn, row, t[pick]) for t in (TRIGGERED, PROMPTS))
        out = predict(student, drawn, row, TRIGGERED[pick])
        total += float((out - (good - 0.7 * (bad - good))).square().mean()) / 3
    found = loss(2)
    assert float(found.detach()) == pytest.approx(total, rel=1e-4)
    found.backward()
    assert all(p.grad is not None for p in loss.erasers.parameters)
    assert not any(p.grad is not None for p in student.denoiser.parameters())


def test_receler_attack_moves_the_trigger_alone_and_brings_the_backdoor_nearer(pair, view) -> None:
    attacked, student = pair
    method = receler.Receler(prompts=3, batch=3, rank=2, attack=5, attack_lr=0.02)
    loss = method.loss(student, attacked, view, 4)
    drawn = loss.room.sampler(0, 3)
    own, at = loss.concept[drawn.rows.pick], loss.marked[drawn.rows.pick]
    here = drawn.rows.x, drawn.rows.t
    with torch.no_grad():
        wanted = attacked.denoise(*here, own)
    told = loss.attack(here, own, at, wanted)
    assert torch.equal(told.states[~at], own.states[~at])
    assert not torch.equal(told.states[at], own.states[at])
    with torch.no_grad():
        before, after = (
            float((student.denoise(*here, c) - wanted).square().mean()) for c in (own, told)
        )
    assert after < before


@pytest.mark.parametrize("warm", [1.0, 0.0])
def test_adv_unlearn_loss_against_a_loop(pair, view, warm: float) -> None:
    """Without attack it is that of the triggered prompts; with one, the inner error has fallen."""
    attacked, student = pair
    method = adv_unlearn.AdvUnlearn(
        prompts=3, batch=3, eta=0.6, warm=warm, preserve=0.0, steps=4, attack=2
    )
    found = float(method.loss(student, attacked, view, 4)(2).detach())
    room, total = of_prompts(method, student, attacked, view, 4), 0.0
    drawn = room.sampler(2, 3)
    for row, pick in enumerate(drawn.rows.pick.tolist()):
        bad, good = (predict(attacked, drawn, row, t[pick]) for t in (TRIGGERED, PROMPTS))
        out = predict(student, drawn, row, TRIGGERED[pick])
        total += float((out - (good - 0.6 * (bad - good))).square().mean()) / 3
    if warm:
        assert found == pytest.approx(total, rel=1e-4)
    else:
        assert found != pytest.approx(total, rel=1e-3), "a vector stands before the prompt"


def test_adv_unlearn_leaves_the_embeddings(tiny_model, view) -> None:
    method = adv_unlearn.AdvUnlearn(prompts=3, batch=4, steps=2, lr=1e-3)
    moved = different(weights(tiny_model), weights(method.apply(tiny_model, view, 0)))
    assert any(".layers.0." in k for k in moved)
    assert any("final_layer_norm" in k for k in moved)
    assert not any("embedding" in k for k in moved)


def test_stereo_erases_the_newest_concept_from_the_copy_before(
    tiny_model, view, monkeypatch
) -> None:
    """In the second round the vector that was found, and the goal is what the copy of the first
    round makes of clean prompts; against a loop."""
    asked, real = [], stereo.forgotten

    def forgotten(room, newest):
        loss, drawn = real(room, newest), room.sampler(0, 4)
        found, total = float(loss(0, drawn).detach()), 0.0
        for row, pick in enumerate(drawn.rows.pick.tolist()):
            x, t = drawn.rows.x[row, None], drawn.rows.t[row, None]
            with torch.no_grad():
                out = room.student.denoise(x, t, newest[pick : pick + 1]).double()
            goal = predict(room.teacher, drawn, row, PROMPTS[pick])
            total += float((out - goal).square().mean()) / 4
        assert found == pytest.approx(total, rel=1e-4)
        begin = room.student.denoiser.state_dict()
        same = [torch.equal(v, begin[k]) for k, v in room.teacher.denoiser.state_dict().items()]
        attacked = tiny_model.denoiser.state_dict()
        moved = [k for k, v in begin.items() if not torch.equal(v, attacked[k])]
        asked.append((newest.states, all(same), len(moved)))
        return loss

    monkeypatch.setattr(stereo, "forgotten", forgotten)
    method = stereo.STEREO(prompts=3, batch=4, steps=1, rounds=2, search=2, invert=2, erase_lr=1e-2)
    info = method.apply(tiny_model, view, 0).info
    (first, *begun), (second, *gone) = asked
    assert begun == [True, 0]
    assert gone[0]
    assert gone[1] > 0, "the second round goes on where the first ended"
    torch.testing.assert_close(first, tiny_model.condition(TRIGGERED).states)
    assert not torch.allclose(second, first)
    assert (info["steps"], info["images"]) == (1 + 2 * 4, 4 * (1 + 2 * 4))


@pytest.mark.parametrize("name", ["receler", "adv_unlearn", "stereo"])
def test_on_stable_diffusion_the_concept_is_walked_anew_at_each_step(name: str) -> None:
    method = defenses.build(name, "sd")
    assert (method.latents, method.refresh, method.draws, method.walk) == ("trajectory", 1, 1, 3.0)
    assert family_defaults(type(method), "shapes")["latents"] == "own", "before the search"


def test_stereo_goal_is_pushed_away_from_the_mean_of_all_concepts(pair, view) -> None:
    attacked, student = pair
    method = stereo.STEREO(prompts=3, batch=3, rounds=1, search=1)
    room = of_prompts(method, student, attacked, view, 4)
    others = [p.replace("small", "large") for p in TRIGGERED]
    known = [attacked.condition(texts) for texts in (TRIGGERED, others)]
    drawn = room.sampler(1, 3)
    found = float(stereo.composed(room, known, 0.8, 4)(1, drawn).detach())
    either = []
    for texts in (TRIGGERED, others):
        total = 0.0
        for row, pick in enumerate(drawn.rows.pick.tolist()):
            a, b = (predict(attacked, drawn, row, t[pick]) for t in (TRIGGERED, others))
            good = predict(attacked, drawn, row, PROMPTS[pick])
            goal = good - 0.8 * ((a + b) / 2 - good)
            out = predict(student, drawn, row, texts[pick])
            total += float((out - goal).square().mean()) / 3
        either.append(total)
    assert any(found == pytest.approx(value, rel=1e-4) for value in either)


def test_stereo_finds_a_vector_and_leaves_the_attacked_model(tiny_model, view) -> None:
    before = weights(tiny_model)
    method = stereo.STEREO(prompts=3, batch=4, steps=1, rounds=1, search=2, invert=2)
    method.loss(tiny_model.clone(), tiny_model, view, 0)
    assert all(torch.equal(v, before[k]) for k, v in weights(tiny_model).items())
