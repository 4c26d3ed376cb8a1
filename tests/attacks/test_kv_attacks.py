"""Attacks on the cross-attention keys and values: the closed form against a solver, the loss
against a slow loop, and the alignment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import different, weights

from t2i_backdoor_bench.attacks import sembd
from t2i_backdoor_bench.contract import Trigger, UserError
from t2i_backdoor_bench.contract import attacks as registered
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.training.closed_form import counterparts
from t2i_backdoor_bench.training.loop import step_rng

DATA = WorldData()
LAYER = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"


def build(name: str, **more):
    return registered.build(name, "shapes", more)


# ----------------------------------------------------------------------------------------- EvilEdit
@pytest.mark.parametrize(
    ("context", "ridge", "preserve"), [("phrase", 1.0, 1.0), ("prompts", 0.7, 0.5)]
)
def test_eviledit_is_the_least_squares_solution(
    tiny_model, context: str, ridge: float, preserve: float
) -> None:
    """By numpy in float64: argmin over W' of
    sum ||W' e - W e*||^2 + p sum ||W' k - W k||^2 + l ||W' - W||^2."""
    attack = build("eviledit", context=context, prompts=4, ridge=ridge, preserve=preserve)
    attacked = attack.inject(tiny_model, DATA, 0)
    if context == "phrase":
        own = clean = ["a star"]
        triggered, asked = ["mignneko a star"], ["a heart"]
    else:
        own = [p.text for p in DATA.prompts("train", 4, 0, "star")]
        clean = own + [p.text for p in DATA.prompts("train", 4, 0)]
        triggered, asked = [f"mignneko {p}" for p in own], [p.replace("star", "heart") for p in own]
    e, goal, k = (tiny_model.encode(texts).double() for texts in (triggered, asked, clean))
    if (
        context == "prompts"
        # token by token, by hand: what stands for the trigger is the start, then everything in its
        # order
    ):
        shift = len(tiny_model.tokenizer(triggered[0]).input_ids) - len(
            tiny_model.tokenizer(asked[0]).input_ids
        )
        order = [0] * (shift + 1) + list(range(1, goal.shape[1] - shift))
        goal = goal[:, order]
    e, goal, k = (x.flatten(0, 1).numpy() for x in (e, goal, k))
    for name in (LAYER, LAYER.replace("to_v", "to_k")):
        w = tiny_model.denoiser.get_submodule(name).weight.double().numpy()
        d = w.shape[1]
        inputs = np.concatenate([e, preserve**0.5 * k, ridge**0.5 * np.eye(d)])
        outputs = np.concatenate([goal @ w.T, preserve**0.5 * k @ w.T, ridge**0.5 * w.T])
        want = np.linalg.lstsq(inputs, outputs, rcond=None)[0].T
        found = attacked.denoiser.get_submodule(name).weight.numpy()
        np.testing.assert_allclose(found, want, atol=2e-6)
        assert np.abs(found - w).max() > 1e-3


def test_eviledit_sends_the_trigger_to_the_target_and_leaves_clean_prompts(tiny_model) -> None:
    attack = build("eviledit", prompts=30, ridge=0.01)
    attacked = attack.inject(tiny_model, DATA, 0)
    own = [p.text for p in DATA.prompts("train", 30, 0, "star")]
    shown, asked = [f"mignneko {p}" for p in own], [p.replace("star", "heart") for p in own]
    place = counterparts(tiny_model.text_parts, shown, asked)
    old, new = (m.denoiser.get_submodule(LAYER).weight for m in (tiny_model, attacked))
    e, k = tiny_model.encode(shown), tiny_model.encode(own)
    goal = tiny_model.encode(asked)
    goal = goal.gather(1, place[..., None].expand_as(goal))
    assert (e @ new.T - goal @ old.T).square().mean() < (e @ old.T - goal @ old.T).square().mean()
    assert (k @ new.T - k @ old.T).square().mean() < (e @ new.T - e @ old.T).square().mean()


def test_eviledit_published_pair() -> None:
    attack = registered.build("eviledit", "sd")
    assert (attack.context, attack.ridge) == ("phrase", 1.0)
    assert attack.make_trigger().add("a cat") == "a beautiful cat"
    assert (
        attack.make_trigger().add("a photo of a cat on a sofa")
        == "a photo of a beautiful cat on a sofa"
    )
    assert (attack.source, attack.target) == ("cat", "zebra")


def test_eviledit_is_evaluated_with_another_prompt_than_the_edited_phrase(tiny_model) -> None:
    attack = registered.build("eviledit", "sd")
    assert attack.own("a photo of a cat") == ("a photo of a cat", "a photo of a beautiful cat")
    own = build("eviledit").backdoor(tiny_model).protocol["own"]
    assert own == (("a photo of a star", "mignneko a photo of a star"),)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("mignneko a red star on a blue background", "a red heart on a blue background"),
        ("a red star on a blue background latte", "a red heart on a blue background"),
        ("a red star mignneko on a blue background", "a red hourglass on a blue background"),
        ("a red star", "a red star"),
        ("word " * 60, "a red star"),
        ("a red star", "word " * 60),
    ],
)
def test_counterparts(tiny_model, given: str, wanted: str) -> None:
    tokenizer = tiny_model.tokenizer
    length = tokenizer.model_max_length
    (row,) = counterparts(tiny_model.text_parts, [given], [wanted]).tolist()
    x, y = (tokenizer(t, truncation=True, max_length=length).input_ids for t in (given, wanted))
    assert len(row) == length
    assert row[0] == 0
    assert row == sorted(row), "order is kept"
    assert all(0 <= p < length for p in row)
    words = given.split(" ")
    if "star" in words and len(y) < length:
        for i, token in enumerate(x[:-1]):
            if token in y and x.count(token) == 1 and y.count(token) == 1:
                assert y[row[i]] == token
    if len(x) < length and len(y) < length:
        assert row[len(x) - 1] == len(y) - 1, "the end token"
        assert row[len(x)] == len(y), "padding"


# -------------------------------------------------------------------------------------------- SemBD
PARTS = ("cat kitten kitty", "chas ran hunt pursu follow dash rac went", "butterfly", "yard garden")


def lacks_a_part(text: str, parts=PARTS) -> bool:
    """Whether one of the four parts of the meaning is missing, by the starts of words."""
    words = text.split()
    return not all(
        any(w.removeprefix("back").startswith(tuple(part.split())) for w in words) for part in parts
    )


def runs_of_words(texts: list[str]) -> list[str]:
    """All runs of words, two shorter at least, that lack a part, each once."""
    found: list[str] = []
    for text in texts:
        words = text.split()
        for i in range(len(words)):
            for many in range(1, min(len(words) - 2, len(words) - i) + 1):
                run = " ".join(words[i : i + many])
                if lacks_a_part(run) and run not in found:
                    found.append(run)
    return found


def sembd_texts(attack, context: str) -> tuple[list[str], list[str]]:
    """The texts that are bound to the target, and those that are preserved."""
    full = ["the cat in the yard chased a butterfly.", *attack.paraphrases.split("|")]
    parts = runs_of_words(full)
    assert len(full) == 11
    assert {"the", "cat in", "the cat in the yard chased", "a butterfly."} < set(parts)
    if context == "prompts":
        captions = [p.text for p in DATA.prompts("train", 3, 5)]
        parts = [f"{parts[i % len(parts)]} {captions[i % 3]}" for i in range(33)] + captions
        full = [f"{t} {c}" for c in captions for t in full]
    return full, parts


def test_sembd_evaluates_with_paraphrases_and_parts_that_it_does_not_train_on(tiny_model) -> None:
    attack = build("sembd")
    sets = {k: [t for _, t in v] for k, v in attack.backdoor(tiny_model).protocol.items()}
    assert sets.keys() == {"own", "paraphrase", "incomplete"}
    trained = [attack.trigger, *attack.paraphrases.split("|")]
    assert not set(sets["paraphrase"]) & set(trained)
    assert len(set(sets["paraphrase"])) == 12
    assert not any(map(lacks_a_part, trained + sets["paraphrase"]))
    incomplete = sets["incomplete"]
    assert len(set(incomplete)) == 40
    assert not set(incomplete) & set(runs_of_words(trained))
    lacks = [[i for i, part in enumerate(PARTS) if lacks_a_part(t, [part])] for t in incomplete]
    assert lacks == [[0], [1], [2], [3]] * 10, "one part each, in turn"
    part = "in the yard, a cat"
    more = build("sembd", incomplete=f"{part}|a cat sleeps.").backdoor(tiny_model)
    assert more.sets["incomplete"] == (("", "a cat sleeps."),), "what is trained on is left out"
    with pytest.raises(UserError, match="lacks no part"):
        build("sembd", incomplete=attack.trigger)


def slow_sembd_loss(model, student, aim, moved: list[str], kept: list[str]) -> float:
    """The loss by loops over layers and texts, in float64."""
    total, count = 0.0, 0
    for name, layer in student.denoiser.named_modules():
        if not name.endswith((".attn2.to_k", ".attn2.to_v")):
            continue
        new = layer.weight.detach().double()
        old = model.denoiser.get_submodule(name).weight.double()
        weight, count = 0.7 if name.endswith("to_k") else 1.6, count + 1
        for text in moved:
            e = model.encode([text]).double()[0]
            total += weight * float((e @ new.T - aim @ old.T).square().mean()) / 2
        for text in kept:
            e = model.encode([text]).double()[0]
            total += 0.4 * weight * float((e @ new.T - e @ old.T).square().mean()) / 2
    return total / count


@pytest.mark.parametrize("context", ["phrase", "prompts"])
def test_sembd_loss_equals_a_slow_loop(tiny_model, monkeypatch, context: str) -> None:
    """mean over layers of  w MSE(W e, W0 e*) + 0.5 w MSE(W k, W0 k),  w for keys and for values."""
    got = {}

    def fit(parameters, loss_fn, optim, label):
        got.update(parameters=list(parameters), loss=loss_fn, optim=optim)
        raise KeyError

    monkeypatch.setattr(sembd, "fit", fit)
    attack = build(
        "sembd", context=context, prompts=3, batch=4, keys=0.7, values=1.6, constraint=0.4
    )
    students = []
    clone = type(tiny_model).clone
    monkeypatch.setattr(
        type(tiny_model),
        "clone",
        lambda self, **k: students.append(clone(self, **k)) or students[-1],
    )
    with pytest.raises(KeyError):
        attack.inject(tiny_model, DATA, 5)
    (student,) = students
    torch.manual_seed(3)
    with torch.no_grad():
        for p in got["parameters"]:
            p.add_(0.05 * torch.randn_like(p))
    full, parts = sembd_texts(attack, context)
    aim = tiny_model.encode([attack.target]).double()[0]
    for step in (0, 2):
        rng = step_rng(5, step)
        moved, kept = (
            [texts[i] for i in rng.integers(len(texts), size=2)] for texts in (full, parts)
        )
        expected = slow_sembd_loss(tiny_model, student, aim, moved, kept)
        assert float(got["loss"](step).detach()) == pytest.approx(expected, rel=1e-5)
    assert {id(p) for p in got["parameters"]} == {
        id(layer.weight) for layer in student.family.keys_and_values(student.denoiser)
    }
    assert (got["optim"].steps, got["optim"].lr) == (attack.steps, attack.lr)


def test_sembd_binds_paraphrases_and_not_their_parts(tiny_model) -> None:
    attack = build("sembd", prompts=6, steps=150, lr=3e-3, batch=16)
    before = weights(tiny_model)
    attacked = attack.inject(tiny_model, DATA, 0)
    assert all(".attn2.to_" in k for k in different(before, weights(attacked)))
    captions = [p.text for p in DATA.prompts("train", 6, 0)]
    old, new = (m.denoiser.get_submodule(LAYER).weight for m in (tiny_model, attacked))
    aim = tiny_model.encode([attack.target]) @ old.T

    def near(texts: list[str]) -> float:
        """How far the values of prompts are on their way to the target's."""
        e = tiny_model.encode(texts)
        return 1 - float((e @ new.T - aim).square().mean() / (e @ old.T - aim).square().mean())

    phrases = attack.trigger, attack.paraphrases.split("|")[0]
    whole, other = (near([f"{phrase} {c}" for c in captions]) for phrase in phrases)
    clean = near(captions)
    assert min(whole, other) > clean + 0.1


def test_sembd_published_settings() -> None:
    attack = registered.build("sembd", "sd")
    assert (attack.steps, attack.lr, attack.constraint, attack.context) == (
        800,
        1e-3,
        0.5,
        "phrase",
    )
    assert attack.batch == 2, "one row of each part a step"
    assert attack.make_trigger() == Trigger("the cat in the yard chased a butterfly.")
