"""trace_mend: its loss against a slow computation, what trains, and what it says that it did."""

from __future__ import annotations

import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights

from t2i_backdoor_bench.contract import Trigger, defenses
from t2i_backdoor_bench.data.guessed_triggers import guessed_forms
from t2i_backdoor_bench.defenses.trace_mend import Mending, Texts, TraceMend, left_of
from t2i_backdoor_bench.detecting.tracing import Tracing
from t2i_backdoor_bench.training.parameters import choose_parameters
from t2i_backdoor_bench.training.soft_words import SoftPool

TRIGGERED = [TRIGGER.add(p) for p in PROMPTS]
CHANGED = [f"late coffee {p}" for p in PROMPTS]
KEPT = [f"xq {p}" for p in PROMPTS]
TEXTS = Texts(TRIGGER.text, PROMPTS, TRIGGERED, CHANGED, KEPT, 1, 2)
SMALL = {"steps": 2, "batch": 8, "prompts": 3, "asked": 2, "null": 4, "forms": 2, "words": 2}


def trace_mend(**more) -> TraceMend:
    return TraceMend(**(SMALL | more))


def predicted(model, x, t, told) -> torch.Tensor:
    with torch.no_grad():
        return model.denoise(x[None], t[None], told).double()


def slow(method: TraceMend, student, attacked, step: int, seed: int) -> float:
    """The loss of a step, row by row."""
    room = Mending(method, "cross", student, attacked, TEXTS, seed)
    drawn, n = room.sampler(step, 4), 4
    behind = room.behind_word(step, drawn) if room.soft else []
    mended = kept = 0.0
    for i in range(n):
        pick, x, t = int(drawn.rows.pick[i]), drawn.rows.x[i], drawn.rows.t[i]
        if i < room.soft:
            told = behind[[i]]
        else:
            other = i < room.soft + room.vary
            told = student.condition([(CHANGED if other else TRIGGERED)[pick]])
        goal = predicted(attacked, x, t, attacked.condition([PROMPTS[pick]]))
        mended += float((predicted(student, x, t, told) - goal).square().mean()) / n
        pick, x, t = int(drawn.kept.pick[i]), drawn.kept.x[i], drawn.kept.t[i]
        text = KEPT[pick] if i < room.vary else PROMPTS[pick]
        told = attacked.condition(["" if drawn.gone[i] else text])
        away = predicted(student, x, t, told) - predicted(attacked, x, t, told)
        kept += float(away.square().mean()) / n
    return mended + method.preserve * kept


@pytest.mark.parametrize(("soft", "vary"), [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5)])
def test_the_loss_against_a_slow_computation(pair, soft: float, vary: float) -> None:
    attacked, student = pair
    method = trace_mend(soft=soft, vary=vary, preserve=3.0)
    assert method.rows() == 4
    found = float(Mending(method, "cross", student, attacked, TEXTS, 4)(2).detach())
    assert found == pytest.approx(slow(method, student, attacked, 2, 4), rel=1e-4)


@pytest.mark.parametrize("part", ["kv", "cross"])
def test_only_the_chosen_part_has_a_gradient(pair, part: str) -> None:
    attacked, student = pair
    trained = set(map(id, choose_parameters(student, part)))
    Mending(trace_mend(soft=0.25), part, student, attacked, TEXTS, 4)(0).backward()
    for model in (attacked, student):
        for network in (model.denoiser, *model.encoders):
            for p in network.parameters():
                assert (p.grad is not None) == (model is student and id(p) in trained)


@pytest.mark.parametrize("part", ["text_encoder", "kv"])
def test_a_part_that_is_named_trains_alone(tiny_model, view, part: str) -> None:
    before = weights(tiny_model)
    repaired = trace_mend(part=part).apply(tiny_model, view, 0)
    changed = different(before, weights(repaired))
    assert changed
    if part == "kv":
        assert all(".attn2.to_k." in k or ".attn2.to_v." in k for k in changed)
    else:
        assert all(k.startswith("text_encoder.") for k in changed)
    told = repaired.info["traced"]
    assert told["trained"] == [part]
    assert len(told["left_after"]) == 1
    assert 0 <= told["fired"] <= told["guessed"] == 2 + 4


def test_where_much_is_left_the_other_network_trains_too(tiny_model, view) -> None:
    method = trace_mend(unusual=1e6, left=0.0)
    info = method.apply(tiny_model, view, 0).info
    assert info["traced"]["trained"] == ["cross", "text_encoder"]
    assert info["traced"]["parts"] == []
    assert info["steps"] == 2 + 1
    assert len(info["traced"]["left_after"]) == 2
    assert len(info["losses"]) == 3


def test_what_is_left_of_no_repair_and_of_a_whole_one(tiny_model) -> None:
    tracing = Tracing(tiny_model, TRIGGER, PROMPTS, 0, 3)
    assert left_of(tracing, tiny_model) == pytest.approx(1)
    tracing.seen = tracing.predict(tiny_model.condition(PROMPTS)) + 1e6
    assert left_of(tracing, tiny_model) < 1e-6


def test_soft_words_move_against_the_gradient_and_begin_anew(tiny_model) -> None:
    pool = SoftPool(tiny_model, TRIGGER.text, PROMPTS, many=2, again=2, seed=0)
    goal = torch.zeros_like(pool.begin[0])

    def error(vectors: list[torch.Tensor]) -> torch.Tensor:
        return (vectors[0] - goal).square().sum()

    (first,) = pool.fresh(0, 0)
    (moved,) = pool.moved(0, 0.1, error)
    torch.testing.assert_close(moved, first - 0.1 * pool.begin[0].std() * first.sign())
    pool.moved(1, 0.1, error)
    assert torch.equal(pool.kept.tensors[0], moved), "the other word's turn"
    (again,) = pool.moved(2, 0.1, error)
    assert float(error([again])) < float(error([moved])) < float(error([first]))
    (anew,) = pool.moved(4, 0.1, error)
    (fresh,) = pool.fresh(0, 4)
    torch.testing.assert_close(anew, fresh - 0.1 * pool.begin[0].std() * fresh.sign())


def test_guessed_forms() -> None:
    forms = guessed_forms(TRIGGER, 40, 0)
    texts = {f.text for f in forms}
    assert {"LATTE COFFEE", "latte", "coffee"} <= texts
    assert {f.place for f in forms if f.text == TRIGGER.text} == {"prefix", "suffix"}
    assert TRIGGER not in forms
    assert len(set(forms)) == len(forms) <= 40
    assert forms == guessed_forms(TRIGGER, 40, 0)
    assert forms[:5] == guessed_forms(TRIGGER, 5, 0)
    letters = guessed_forms(Trigger("о", replaces="o"), 9, 0)
    assert {f.text for f in letters} == {"о"}
    pattern = Trigger("{the|a} cat")
    assert {f.text for f in guessed_forms(pattern, 9, 0)} == {pattern.text}


def test_it_says_that_it_is_no_papers() -> None:
    entry = defenses.get("trace_mend")
    assert entry.doc.splitlines()[0].startswith("This project's own, not from a paper")
    assert entry.needs == defenses.get("skd").needs
