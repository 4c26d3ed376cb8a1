"""SKD-CAG: its losses against slow float64 loops, its gradients by differences, and what the
released variant does not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights
from test_attention import Slow
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError
from t2i_backdoor_bench.contract import defenses as registered
from t2i_backdoor_bench.defenses import skdcag as skdcag_module
from t2i_backdoor_bench.skdcag_module import SKDCAG, word_spans
from t2i_backdoor_bench.skdcag_module_released import SKDCAGReleased
from t2i_backdoor_bench.training.attention import Capture, align, substitute
from t2i_backdoor_bench.training.denoising import own_images
from t2i_backdoor_bench.training.loop import step_generator, step_rng

SMALL = {"steps": 2, "batch": 4, "prompts": 3}


def state(model) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.unet.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


# --------------------------------------------------------------------- the loss, written out slowly
def scaled(m: Tensor) -> Tensor:
    return (m - m.min()) / (m.max() - m.min() + 1e-6)


def slow_loss(method: SKDCAG, student, teacher, step: int, seed: int) -> tuple[float, float, float]:
    """(L, L_attn, L_pred) of one step, by loops over rows and tokens in float64, on what METHODS
    2.1 says."""
    words = [skdcag_module.WORDS[i] for i in stand_in_numbers(seed)]
    random_words = method.target == "random_words" and method.alpha > 0
    rows = method.batch // 2 if method.preserve else method.batch
    generator = step_generator(seed, step)
    rng = step_rng(seed, step)
    picks = rng.integers(len(PROMPTS), size=rows)
    gone = rng.random(rows) < method.drop
    total = teacher.noising.config.num_train_timesteps
    t = (torch.rand(rows, generator=generator) ** (1 / method.bias) * total).long()
    noise = torch.randn((rows, *teacher.latent_shape), generator=generator)
    if method.latents == "own":
        z = own_images(teacher, PROMPTS, seed)[picks].double()
        alphas = teacher.noising.alphas_cumprod[t].double().view(-1, 1, 1, 1)
        x = (alphas.sqrt() * z + (1 - alphas).sqrt() * noise.double()).float()
    else:
        x = noise
    triggered = [TRIGGER.add(PROMPTS[i]) for i in picks]
    taught = [
        substitute(TRIGGER, PROMPTS[i], words[i]) if random_words else PROMPTS[i] for i in picks
    ]
    clean = ["" if g else PROMPTS[i] for i, g in zip(picks, gone, strict=True)]
    with torch.no_grad():
        out = student.unet(x, t, student.encode(triggered)).sample.double()
        goal = teacher.unet(x, t, teacher.encode(taught)).sample.double()
        kept = (
            student.unet(x, t, student.encode(clean)).sample.double(),
            teacher.unet(x, t, teacher.encode(clean)).sample.double(),
        )
    prediction = float(((out - goal) ** 2).mean())
    own = Slow(student.unet)(x, t, student.encode(triggered))
    seen = Slow(teacher.unet)(x, t, teacher.encode(taught))
    texts = [TRIGGER.add(p) for p in PROMPTS]
    texts += (
        [substitute(TRIGGER, p, words[i]) for i, p in enumerate(PROMPTS)] if random_words else []
    )
    length = (
        max(len(teacher.tokenizer(text).input_ids) for text in texts) - 1
    )  # noise is drawn for the tokens that are read
    scatter = torch.randn((rows, length, *own.shape[2:]), generator=generator).double()
    layers = len(Slow(student.unet).layers)
    tokenizer, by_row = teacher.tokenizer, []
    for r, i in enumerate(picks):
        ids = tokenizer(triggered[r]).input_ids
        before = (
            len(
                tokenizer(
                    " ".join(PROMPTS[i].split(" ")[: len(PROMPTS[i].split(" ")) // 2])
                ).input_ids
            )
            - 2
        )
        length = len(tokenizer(TRIGGER.text).input_ids) - 2
        spare = len(tokenizer(words[i]).input_ids) - 2 if random_words else 0
        errors = []
        for token in range(1, len(ids) - 1):
            mine = scaled(own[r, token])
            if token <= before:
                target = scaled(seen[r, token])
            elif token > before + length:
                target = scaled(seen[r, token - length + spare])
            elif method.target == "black":
                mine, target = (own[r, token] / layers, 0.0) if method.raw_black else (mine, 0.0)
            elif method.target == "gaussian":
                target = scaled(scatter[r, token])
            else:
                target = sum(scaled(seen[r, before + 1 + k]) for k in range(spare)) / spare
            errors.append(float(((mine - target) ** 2).mean()))
        share = float(t[r]) / total
        weight = (1 - share if method.reverse_time else share) if method.time_weight else 1.0
        by_row.append(sum(errors) / len(errors) * weight)
    attention = sum(by_row) / rows if method.alpha else 0.0
    keep = float(((kept[0] - kept[1]) ** 2).mean())
    return (
        method.alpha * attention + (1 - method.alpha) * (prediction + method.preserve * keep),
        attention,
        prediction,
    )


def stand_in_numbers(seed: int) -> list[int]:
    return (
        np.random.default_rng([seed, 5])
        .integers(len(skdcag_module.WORDS), size=len(PROMPTS))
        .tolist()
    )


CASES = [
    {"target": "black", "raw_black": True},
    {"target": "black", "raw_black": False},
    {"target": "gaussian"},
    {"target": "random_words"},
    {"target": "random_words", "time_weight": True},
    {"target": "black", "time_weight": True, "reverse_time": True},
    {"target": "gaussian", "time_weight": True, "alpha": 1.0},
    {"target": "black", "alpha": 0.0},
    {"target": "black", "latents": "own", "bias": 2.0},
]


@pytest.mark.parametrize(("preserve", "drop"), [(0.0, 0.0), (0.7, 0.0), (0.7, 0.5), (0.7, 1.0)])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_total_loss_equals_a_slow_loop(
    pair, view, case: dict, preserve: float, drop: float
) -> None:
    teacher, student = pair
    method = SKDCAG(
        prompts=3,
        **{
            "alpha": 0.3,
            "latents": "noise",
            "preserve": preserve,
            "drop": drop,
            "batch": 6,
            **case,
        },
    )
    loss_fn = method.loss(student, teacher, view, seed=4)
    for step in (0, 5):
        expected, attention, prediction = slow_loss(method, student, teacher, step, seed=4)
        assert float(loss_fn(step)) == pytest.approx(expected, rel=1e-4)
        assert prediction > 0
        assert attention > 1e-4 or method.alpha == 0


def test_losses_of_the_targets_differ(pair, view) -> None:
    teacher, student = pair
    values = {}
    for case in CASES[:6]:
        method = SKDCAG(prompts=3, alpha=1.0, latents="noise", preserve=0.0, batch=6, **case)
        values[str(case)] = float(method.loss(student, teacher, view, 4)(0))
    assert len(set(values.values())) == len(values), values


def test_random_words_of_several_tokens(pair, view, monkeypatch) -> None:
    teacher, student = pair
    monkeypatch.setattr(skdcag_module, "WORDS", ("extraordinary counterrevolutionary", "x"))
    method = SKDCAG(prompts=3, target="random_words", latents="noise", preserve=0.5, batch=6)
    lengths = [len(teacher.tokenizer(w).input_ids) - 2 for w in skdcag_module.WORDS]
    assert lengths[0] > 3
    assert lengths[1] == 1
    seed = next(
        s for s in range(50) if len(set(stand_in_numbers(s))) == 2
    )  # one that draws both words
    assert float(method.loss(student, teacher, view, seed)(0)) == pytest.approx(
        slow_loss(method, student, teacher, 0, seed)[0], rel=1e-4
    )
    words = ["extraordinary counterrevolutionary", "x", "x"]
    assert word_spans(teacher, TRIGGER, PROMPTS, words).sum(1).tolist() == [lengths[0], 1, 1]


# ---------------------------------------------------------------------------------------- gradients
@pytest.mark.parametrize(
    ("target", "raw"),
    [("black", True), ("black", False), ("gaussian", True), ("random_words", True)],
)
def test_gradient_of_the_attention_loss_by_central_differences(
    pair, target: str, raw: bool
) -> None:
    teacher, student = pair
    method = SKDCAG(prompts=3, target=target, raw_black=raw, time_weight=True)
    words = ["river", "music", "paper"]
    stand_ins = words if target == "random_words" else None
    row = align(teacher.tokenizer, TRIGGER, PROMPTS, stand_ins)
    span = word_spans(teacher, TRIGGER, PROMPTS, words) if stand_ins else None
    x = torch.randn(3, *teacher.latent_shape, generator=torch.Generator().manual_seed(0)).double()
    t = torch.tensor([100, 500, 900])
    context = student.encode([TRIGGER.add(p) for p in PROMPTS]).double()
    taught = teacher.encode(
        [substitute(TRIGGER, p, w) for p, w in zip(PROMPTS, words, strict=True)]
        if stand_ins
        else PROMPTS
    ).double()
    unet = student.unet.double().requires_grad_(True)
    with torch.no_grad(), Capture(teacher.unet.double()) as seen:
        teacher.unet(x, t, taught)

    def loss() -> Tensor:
        with Capture(unet) as own:
            unet(x, t, context)
        return method.attention_loss(
            own.maps(), seen.maps(), len(own), row, t / 1000, torch.Generator().manual_seed(7), span
        )

    loss().backward()
    weights = dict(unet.named_parameters())
    picked = [
        "conv_in.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight",
        "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.weight",
    ]
    for name in picked:
        weight = weights[name]
        where = torch.unravel_index(weight.grad.abs().argmax(), weight.shape)
        flat, exact = weight.detach(), float(weight.grad[where])
        kept, h = float(flat[where]), 1e-5
        values = []
        for sign in (1, -1):
            flat[where] = kept + sign * h
            with torch.no_grad():
                values.append(float(loss()))
        flat[where] = kept
        assert abs(exact) > 1e-8, name
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(exact, rel=1e-3), name
    assert weights["conv_out.weight"].grad is None, "the attention loss does not see the prediction"
    assert all(p.grad is None for p in teacher.unet.parameters())


def test_attention_alone_trains_the_student_but_not_the_released_one(tiny_model, view) -> None:
    """METHODS 2.1, point 1: the released maps are cut off from the gradient, so that only weight
    decay moves the weights."""
    before = state(tiny_model)
    options = {**SMALL, "alpha": 1.0, "lr": 1e-3, "latents": "noise", "preserve": 0.0}
    ours = state(SKDCAG(**options).apply(tiny_model, view, 0))
    moved = [k for k in before if ".attn2.to_k" in k and (ours[k] - before[k]).abs().max() > 5e-4]
    assert len(moved) > 3
    theirs = state(
        SKDCAGReleased(alpha=1.0, steps=2, lr=1e-3, prompts=3).apply(tiny_model, view, 0)
    )
    shrink = (
        0.5 + 0.5 * (1 - 1e-3 * 0.01) ** 2
    )  # two steps of weight decay, then the average with decay 0.5
    for key, value in before.items():
        torch.testing.assert_close(theirs[key], value * shrink, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["skd", "skdcag_black", "skdcag_random_words", "skdcag_released"])
def test_trains_alike_under_gradient_checkpointing(tiny_model, view, name: str) -> None:
    """At Stable Diffusion scale activations do not fit: the maps must keep their gradient where
    layers run again in backward."""
    options = (
        {"steps": 2, "prompts": 3} if name == "skdcag_released" else {**SMALL, "latents": "noise"}
    )
    plain = registered.build(name, "shapes", options).apply(tiny_model, view, 0)
    tiny_model.unet.enable_gradient_checkpointing()
    checked = registered.build(name, "shapes", options).apply(tiny_model, view, 0)
    assert checked.unet.is_gradient_checkpointing
    share, most = apart(plain, checked)
    assert share < 1e-4
    assert most < 2.5e-3, "as far as two steps of Adam can part two weights"
    if name in ("skdcag_black", "skdcag_random_words"):
        without = registered.build(name, "shapes", {**options, "alpha": 0.0}).apply(
            tiny_model, view, 0
        )
        assert apart(plain, without)[0] > 0.01, "which is what maps without a gradient would train"


def apart(model, other) -> tuple[float, float]:
    """The share of the U-Net's weights that differ, and by how much at most. Adam divides a
    gradient by its size: where it is next to nothing, its rounding decides where a weight goes, so
    that some few always do."""
    pairs = [
        (a.flatten(), b.flatten())
        for a, b in zip(model.unet.parameters(), other.unet.parameters(), strict=True)
    ]
    a, b = (torch.cat(side) for side in zip(*pairs, strict=True))
    difference = (a - b).abs()
    return float((difference > 1e-4 + 1e-3 * b.abs()).float().mean()), float(difference.max())


# ----------------------------------------------------------------------------------------- training
def test_skd_is_skdcag_with_alpha_zero_bit_for_bit(tiny_model, view) -> None:
    skd = registered.build("skd", "shapes", {**SMALL, "preserve": 2.0}).apply(tiny_model, view, 1)
    for target in ("black", "random_words", "gaussian"):
        other = registered.build(
            f"skdcag_{target}", "shapes", {**SMALL, "alpha": 0.0, "preserve": 2.0}
        ).apply(tiny_model, view, 1)
        assert same(state(skd), state(other)), target
    assert not same(
        state(skd), state(registered.build("skdcag", "shapes", SMALL).apply(tiny_model, view, 1))
    )


@pytest.mark.parametrize(
    "name", ["skd", "skdcag_black", "skdcag_gaussian", "skdcag_random_words", "skdcag_released"]
)
def test_the_teacher_is_untouched(tiny_model, view, name: str) -> None:
    before = state(tiny_model)
    options = (
        {"steps": 3, "prompts": 2, "lr": 1e-2}
        if name == "skdcag_released"
        else {**SMALL, "lr": 1e-2}
    )
    repaired = registered.build(name, "shapes", options).apply(tiny_model, view, 0)
    assert same(before, state(tiny_model))
    assert not same(before, state(repaired))
    assert all(
        p.grad is None and not p.requires_grad
        for p in [*tiny_model.unet.parameters(), *repaired.unet.parameters()]
    )


def test_training_keys_and_values_changes_nothing_else(tiny_model, view) -> None:
    before = state(tiny_model)
    method = SKDCAG(**SMALL, train="kv", target="random_words")
    repaired = method.apply(tiny_model, view, 0)
    after = state(repaired)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    expected = {k for k in before if ".attn2.to_k." in k or ".attn2.to_v." in k}
    assert changed == expected
    assert repaired.info["parameters"] == sum(before[k].numel() for k in expected)


def test_preserving_pulls_clean_predictions_back(pair, view) -> None:
    """The gradient of the preserving term alone lowers the distance of the clean predictions."""
    teacher, student = pair
    student.unet.requires_grad_(True)
    both = SKDCAG(prompts=3, alpha=0.5, latents="noise", preserve=1.0, drop=0.0, batch=6).loss(
        student, teacher, view, 0
    )
    alone = SKDCAG(prompts=3, alpha=0.5, latents="noise", preserve=0.0, batch=3).loss(
        student, teacher, view, 0
    )
    kept = float(both(0)) - float(alone(0))  # same rows, same draws
    assert kept > 0
    picks = step_rng(0, 0).integers(3, size=3)
    generator = step_generator(0, 0)
    t = (torch.rand(3, generator=generator) * 1000).long()
    x = torch.randn((3, *teacher.latent_shape), generator=generator)
    states = teacher.encode([PROMPTS[i] for i in picks])
    with torch.no_grad():
        expected = (
            (student.unet(x, t, states).sample - teacher.unet(x, t, states).sample).pow(2).mean()
        )
    assert kept == pytest.approx(0.5 * float(expected), rel=1e-3), (
        "it shares the weight 1 - alpha with the prediction"
    )


def test_trajectory_latents_are_what_the_student_is_given_while_it_draws(
    pair, view, monkeypatch
) -> None:
    teacher, student = pair
    asked = []
    plain = type(student).trajectory
    monkeypatch.setattr(
        type(student),
        "trajectory",
        lambda self, *a: asked.append(self is student) or plain(self, *a),
    )
    loss_fn = SKDCAG(prompts=3, latents="trajectory", refresh=4, preserve=0.0, batch=2).loss(
        student, teacher, view, 0
    )
    given = []
    hook = student.unet.register_forward_pre_hook(
        lambda m, a: given.append(a[:2]) if len(a[0]) == 2 else None
    )
    values = [float(loss_fn(i).detach()) for i in (0, 1, 3, 4)]
    hook.remove()
    assert asked == [True, True], "drawn at step 0 and anew at step 4, by the student"
    assert len(set(values)) > 2
    draw = np.random.default_rng([0, 78, 1])
    which = draw.permutation(3)
    times, latents = plain(
        student, [TRIGGER.add(PROMPTS[i]) for i in which], draw.integers(2**31, size=3)
    )
    x, t = given[-1]
    for row in range(2):
        place = int((times == t[row]).nonzero())
        assert any(torch.allclose(x[row], z, atol=1e-5) for z in latents[place])


def test_clean_prompts_are_preserved_on_the_trajectories_of_clean_prompts(pair, view) -> None:
    teacher, student = pair
    loss_fn = SKDCAG(prompts=3, alpha=0.0, latents="trajectory", preserve=1.0, batch=4).loss(
        student, teacher, view, 0
    )
    given, asked = [], []
    hooks = [
        student.unet.register_forward_pre_hook(
            lambda m, a: given.append(a) if m.training or torch.is_grad_enabled() else None
        )
    ]
    hooks.append(teacher.unet.register_forward_pre_hook(lambda m, a: asked.append(a)))
    value = float(loss_fn(0).detach())
    for hook in hooks:
        hook.remove()
    x, t, context = given[-1]
    parts = []
    for rows, add, seed, many in (
        (slice(0, 2), TRIGGER.add, 0, 1),
        (slice(2, 4), str, 10_007, 3),
    ):  # half of the triggered, all clean ones
        draw = np.random.default_rng([seed, 78, 0])
        which = draw.permutation(3)[:many]
        times, latents = student.trajectory(
            [add(PROMPTS[i]) for i in which], draw.integers(2**31, size=many)
        )
        for row in range(rows.start, rows.stop):
            drawn = latents[int((times == t[row]).nonzero())]
            place = next(k for k in range(many) if torch.allclose(x[row], drawn[k], atol=1e-5))
            clean, empty = teacher.encode([PROMPTS[which[place]]]), teacher.encode([""])
            if rows.start:  # a preserved row asks for the clean prompt, or for nothing
                assert any(torch.allclose(context[row], c[0]) for c in (clean, empty))
            with torch.no_grad():
                goal = teacher.unet(
                    x[row, None], t[row, None], context[row, None] if rows.start else clean
                ).sample
                parts.append(
                    float(
                        (student.unet(x[row, None], t[row, None], context[row, None]).sample - goal)
                        .pow(2)
                        .mean()
                    )
                    / 2
                )
    assert value == pytest.approx(sum(parts), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_training_the_text_encoder_moves_nothing_else_towards_the_same_loss(
    tiny_model, view, alpha: float
) -> None:
    options = {
        "prompts": 3,
        "alpha": alpha,
        "latents": "noise",
        "preserve": 1.0,
        "batch": 4,
        "drop": 0.5,
    }
    student = tiny_model.clone(text_encoder=True, train="none")
    student.text_encoder.requires_grad_(True)
    live = SKDCAG(train="text_encoder", **options).loss(student, tiny_model, view, 0)
    fixed = SKDCAG(**options).loss(tiny_model.clone(), tiny_model, view, 0)
    for step in range(3):
        assert float(live(step).detach()) == pytest.approx(float(fixed(step).detach()), rel=1e-4), (
            "it starts from the same model"
        )
    live(0).backward()
    assert any(
        p.grad is not None and p.grad.abs().max() > 0 for p in student.text_encoder.parameters()
    )
    assert all(
        p.grad is None
        for p in (
            *student.unet.parameters(),
            *tiny_model.text_encoder.parameters(),
            *tiny_model.unet.parameters(),
        )
    )
    before = weights(tiny_model)
    repaired = SKDCAG(train="text_encoder", steps=2, lr=1e-3, **options).apply(tiny_model, view, 0)
    changed = different(weights(repaired), before)
    assert changed
    assert all(k.startswith("text_encoder.") for k in changed)
    assert not different(weights(tiny_model), before), "the attacked model stays as it is"


def test_a_bias_that_trajectories_would_ignore_is_refused() -> None:
    with pytest.raises(UserError, match="trajectories have their own"):
        SKDCAG(latents="trajectory", bias=2.0)


@pytest.mark.parametrize("name", ["target", "latents", "known"])
def test_a_value_that_is_none_of_the_known_ones_is_refused_when_it_is_given(name: str) -> None:
    with pytest.raises(UserError, match=f"skdcag {name} 'nonsense' is not one of"):
        SKDCAG(**{name: "nonsense"})


@pytest.mark.parametrize(
    ("known", "text"), [("all", "latte coffee"), ("first", "latte"), ("last", "coffee")]
)
def test_a_defender_may_know_a_part_of_the_trigger(pair, view, known: str, text: str) -> None:
    teacher, student = pair
    options = {"latents": "noise", "batch": 4, "prompts": 3}
    part = DefenderView(("trigger",), PROMPTS, trigger=Trigger(text, "inside"))
    ours = SKDCAG(known=known, **options).loss(student, teacher, view, 0)(0)
    assert float(ours.detach()) == float(
        SKDCAG(**options).loss(student, teacher, part, 0)(0).detach()
    )


def test_unknown_options_are_user_errors(tiny_model, view) -> None:
    with pytest.raises(UserError, match="target"):
        SKDCAG(prompts=3, target="white").apply(tiny_model, view, 0)
    with pytest.raises(UserError, match="latents"):
        SKDCAG(prompts=3, latents="theirs").apply(tiny_model, view, 0)
    with pytest.raises(UserError, match="one word"):
        SKDCAG(known="first", prompts=3).apply(
            tiny_model, DefenderView(("trigger",), PROMPTS, trigger=Trigger("x")), 0
        )
    with pytest.raises(UserError, match="prompts 400 is not between 1 and the 3"):
        SKDCAG(prompts=400).apply(tiny_model, view, 0)
