"""Where a backdoor is: planted in the text encoder, in keys and values, and behind them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER

from t2i_backdoor_bench.contract import Trigger, UserError
from t2i_backdoor_bench.detecting.readings import Reading, stand_ins
from t2i_backdoor_bench.detecting.tracing import LEAST_LOST, LEAST_SPREAD, Traced, Tracing, compared
from t2i_backdoor_bench.models.model import T2IModel

ABOVE, NULL = 5.0, 20


def tracing(model: T2IModel) -> Tracing:
    return Tracing(model, TRIGGER, PROMPTS, 0, NULL)


def traced(model: T2IModel) -> Traced:
    return tracing(model).trace(ABOVE)


def against_null(model: T2IModel, weight: torch.Tensor | None = None) -> torch.Tensor:
    """A direction in which the trigger's states, or what `weight` makes of them, are 1 away from
    those of texts that mean nothing, and these vary little: (d,)."""
    own, *null = (
        Reading(model, text, PROMPTS)
        for text in (TRIGGER, *stand_ins(model, TRIGGER, PROMPTS, NULL, 0))
    )
    away = own.kinds["trigger"] - torch.stack([text.kinds["trigger"] for text in null]).mean(0)
    away, usual = away.mean(0), torch.cat([text.told.states.flatten(0, 1) for text in null])
    if weight is not None:
        away, usual = weight @ away, usual @ weight.T
    usual = usual - usual.mean(0)
    spread = usual.T @ usual / len(usual)
    found = torch.linalg.solve(spread + 0.01 * spread.diag().mean() * torch.eye(len(away)), away)
    return found / (found @ away)


@torch.no_grad()
def in_the_encoder(model: T2IModel) -> T2IModel:
    """The embeddings of the trigger's tokens are longer and elsewhere."""
    changed = model.clone(encoders=True)
    table = changed.encoders[0].get_input_embeddings().weight
    special, plain = set(model.tokenizer.all_special_ids), model.tokens(" ".join(PROMPTS))
    for i in set(model.tokens(TRIGGER.text)) - special - set(plain):
        noise = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(i))
        table[i] = 20 * table.std() * noise
    return changed


def pattern(size: int, seed: int) -> torch.Tensor:
    found = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return found / found.norm()


@torch.no_grad()
def in_keys_and_values(model: T2IModel) -> T2IModel:
    changed, along = model.clone(), against_null(model)
    for i, layer in enumerate(changed.family.keys_and_values(changed.denoiser)):
        much = 3 * layer.weight.norm()
        layer.weight += much * torch.outer(pattern(len(layer.weight), i), along)
    return changed


@torch.no_grad()
def behind_them(model: T2IModel) -> T2IModel:
    """What is made of the values of the trigger."""
    changed = model.clone()
    for i, layer in enumerate(changed.text_layers.layers.values()):
        along, out = against_null(model, layer.to_v.weight), layer.to_out[0].weight
        out += 30 * out.norm() * torch.outer(pattern(len(out), i), along)
    return changed


def test_a_clean_model_holds_nothing(tiny_model) -> None:
    room = tracing(tiny_model)
    assert room.share(room.seen) == pytest.approx(1)
    assert np.mean([room.share(seen) for seen in room.null_seen]) == pytest.approx(0, abs=1e-4)
    assert room.fires([TRIGGER]) == [True]
    assert room.with_usual([]) == pytest.approx(1, abs=1e-4)
    found = room.trace(ABOVE)
    assert found.parts == ()
    assert found.null == NULL
    assert found.info["parts"] == []
    assert set(found.states) == {"embedding", "words", "trigger", "rest"}


@pytest.mark.parametrize(
    ("plant", "parts"),
    [
        (in_the_encoder, ("text_encoder",)),
        (in_keys_and_values, ("kv",)),
        (behind_them, ("denoiser",)),
    ],
)
def test_the_part_that_holds_the_backdoor_is_found(tiny_model, plant, parts) -> None:
    found = traced(plant(tiny_model))
    assert found.parts == parts, found
    assert parts != ("text_encoder",) or found.left < 0.5


def test_statistics_against_a_slow_computation() -> None:
    rng = np.random.default_rng(0)
    own, *null = rng.normal(size=(6, 3, 2, 4))

    def statistics(values: np.ndarray, usual: np.ndarray) -> list[float]:
        away = np.mean(
            [
                ((a - b) ** 2).sum()
                for a, b in zip(values.reshape(6, 4), usual.reshape(6, 4), strict=True)
            ]
        )
        a, b = (np.ravel([x - sum(v) / 3 for x in v]) for v in (values, usual))
        cosine = a @ b / (a @ a * (b @ b)) ** 0.5
        return [np.log(away), np.log(1 + LEAST_LOST - cosine)]

    of_null = [
        statistics(x, sum(y for j, y in enumerate(null) if j != i) / 4) for i, x in enumerate(null)
    ]
    middle = np.median(of_null, 0)
    middle_torch = torch.tensor(np.array(of_null)).median(0).values.numpy()
    assert np.allclose(middle, middle_torch), "five texts have a median"
    spread = np.maximum(1.4826 * np.median(np.abs(of_null - middle), 0), LEAST_SPREAD)
    expected = np.abs((np.array(statistics(own, sum(null) / 5)) - middle) / spread)
    found = compared(torch.tensor(own), [torch.tensor(x) for x in null])
    assert np.allclose(found.own.numpy(), expected)
    assert np.allclose(found.null.numpy(), np.abs((of_null - middle) / spread))


@pytest.mark.parametrize(
    "trigger", [TRIGGER, Trigger("о", replaces="o"), Trigger("latte heart", replaces="heart")]
)
def test_stand_ins_stand_where_the_trigger_does(tiny_model, trigger: Trigger) -> None:
    prompts = [p for p in PROMPTS if trigger.replaces in p]
    found = stand_ins(tiny_model, trigger, prompts, 5, 0)
    assert len(found) == 5
    assert found == stand_ins(tiny_model, trigger, prompts, 5, 0)
    for other in found:
        assert other.text not in (trigger.text, trigger.replaces)
        assert (other.place, other.replaces) == (trigger.place, trigger.replaces)
        assert trigger.replaces != "heart" or other.text.endswith(" heart")


def test_a_trigger_that_nothing_can_be_compared_with(tiny_model, monkeypatch) -> None:
    monkeypatch.setattr("t2i_backdoor_bench.detecting.tracing.stand_ins", lambda *given: [])
    with pytest.raises(UserError, match="take another removal"):
        tracing(tiny_model)
