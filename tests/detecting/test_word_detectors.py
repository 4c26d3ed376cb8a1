"""GrainPS and AMDET: alignments word by word, the inserted vector, and the loss and the curvature
against slow computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import PROMPTS, weights
from tiny_joint import joint_model

from t2i_backdoor_bench.contract import DefenderView
from t2i_backdoor_bench.defenses import amdet, grainps
from t2i_backdoor_bench.detecting.curvature import positive_share
from t2i_backdoor_bench.detecting.token_variation import content_words
from t2i_backdoor_bench.training.alignment import token_span
from t2i_backdoor_bench.training.soft_words import soft_word


# ------------------------------------------------------------------------------------------ GrainPS
def test_grainps_leaves_one_word_out() -> None:
    prompt = "a red heart, there"
    words = content_words(prompt)
    assert [prompt[a:b] for a, b in words][:2] == ["red", "heart"]
    text, spans = grainps.left_out(prompt, words[0], words)
    assert text == "a heart, there"
    assert [text[a:b] for a, b in spans][:1] == ["heart"]


def test_grainps_impact_against_one_word_and_one_layer_at_a_time(tiny_model) -> None:
    prompt = "a small red heart"
    words, found = grainps.impacts(tiny_model, prompt, 0)
    assert [prompt[a:b] for a, b in words] == ["small", "red", "heart"]
    layers = [
        m.weight.double()
        for n, m in tiny_model.denoiser.named_modules()
        if n.endswith((".attn2.to_k", ".attn2.to_v"))
    ]

    def projected(text: str, word: str) -> list[torch.Tensor]:
        start = text.index(word)
        at = token_span(tiny_model.text_part, text, start, start + len(word))[1]
        states = tiny_model.encode([text])[0, at].double()
        return [(states @ w.T).mean(0) for w in layers]

    def aligned(text: str, word: str) -> float:
        pairs = zip(projected(text, word), projected(word, word), strict=True)
        return float(np.mean([float(F.cosine_similarity(a, b, dim=0)) for a, b in pairs]))

    for (a, b), value in zip(words, found, strict=True):
        word = prompt[a:b]
        less = prompt.replace(f"{word} ", "").replace(f" {word}", " ")
        others = [prompt[s:e] for s, e in words if (s, e) != (a, b)]
        expected = np.mean([aligned(less, o) - aligned(prompt, o) for o in others])
        assert value == pytest.approx(expected, abs=1e-5)


def test_grainps_scores_the_word_that_stands_out() -> None:
    assert grainps.peak(np.array([0.1, 0.5, 0.3])) == pytest.approx(0.3)
    assert grainps.peak(np.array([0.4])) == grainps.peak(np.array([])) == 0.0


# -------------------------------------------------------------------------------------------- AMDET
def test_the_soft_word_stands_behind_the_start_token(tiny_model) -> None:
    word = soft_word(tiny_model, PROMPTS, 0)
    long = " ".join(["background"] * 60)
    ids = tiny_model.tokenize([*PROMPTS, long])
    new = word.insert(ids)
    assert (ids != word.ids[0]).all()
    assert (new[:, 1] == word.ids[0]).all()
    assert torch.equal(new[:, 0], ids[:, 0])
    assert torch.equal(new[:, 2:-1], ids[:, 1:-2])
    assert torch.equal(new[:, -1], ids[:, -1]), "a full text keeps its end token"


def test_the_soft_word_is_read_as_its_vector_and_nothing_else_learns(tiny_model) -> None:
    word, before = soft_word(tiny_model, PROMPTS, 0), weights(tiny_model)
    new = word.insert(tiny_model.tokenize(PROMPTS))
    told = word.read(tiny_model, new)
    told.states.sum().backward()
    assert word.rows[0].grad.abs().sum() > 0
    assert not any(p.grad is not None for p in tiny_model.encoders[0].parameters())
    other = tiny_model.clone(encoders=True, train="none")
    with torch.no_grad():
        other.encoders[0].get_input_embeddings().weight[word.ids[0]] = word.rows[0][0]
        torch.testing.assert_close(told.states.detach(), other.read(new).states)
    assert all(torch.equal(v, before[k]) for k, v in weights(tiny_model).items())


def test_assimilation_is_the_mean_cosine_of_all_pairs() -> None:
    states = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1)).double()
    for row, value in zip(states, amdet.assimilation(states), strict=True):
        pairs = [float(F.cosine_similarity(a, b, dim=0)) for a in row for b in row]
        assert float(value) == pytest.approx(np.mean(pairs))
    same = torch.ones(1, 4, 3)
    assert float(amdet.assimilation(same)) == pytest.approx(1)


def test_amdet_loss_against_a_loop(tiny_model) -> None:
    anchor = tiny_model.clone(encoders=True, train="none")
    with torch.no_grad():
        for p in anchor.encoders[0].parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    word = soft_word(tiny_model, PROMPTS, 0)
    method = amdet.AMDET(beta=0.3, gamma=0.7)
    loss, expected = amdet.Objective(tiny_model, anchor, word, method), []
    with torch.no_grad():
        ids = word.insert(tiny_model.tokenize(PROMPTS))
        for i in (0, 2):
            own, trusted = (word.read(m, ids[[i]]).states[0] for m in (tiny_model, anchor))
            clean = tiny_model.encode([PROMPTS[i]])[0]
            near = F.cosine_similarity(own, clean, dim=1).mean()
            same = F.cosine_similarity(own, trusted, dim=1).mean()
            expected.append(float(-amdet.assimilation(own[None]) + 0.3 * near + 0.7 * same))
    found = loss([PROMPTS[0], PROMPTS[2]]).detach()
    assert found.shape == (2, 1)
    assert found[:, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_amdet_trains_vectors_of_one_size_on_every_base(tiny_model) -> None:
    """Learning rate and plane are shares of the first vector, whatever the embeddings' size."""
    table = tiny_model.encoders[0].get_input_embeddings().weight
    size = float(table.norm(dim=1).mean()) / table.shape[1] ** 0.5
    word = soft_word(tiny_model, PROMPTS, 0)
    own = amdet.Objective(tiny_model, tiny_model, word, amdet.AMDET())
    torch.testing.assert_close(own.rows[0] * size, word.rows[0])
    released = amdet.Objective(tiny_model, tiny_model, word, amdet.AMDET(size=1.0))
    torch.testing.assert_close(released.rows[0], own.rows[0])
    changed = word.read(tiny_model, word.insert(tiny_model.tokenize(PROMPTS)), released.rows)
    torch.testing.assert_close(released.states(tiny_model, PROMPTS), changed.states)


def test_amdet_judges_each_run_of_states_by_itself(tmp_path) -> None:
    """SD3: two CLIPs side by side, T5 behind them; FLUX: T5 alone has token states."""
    model = joint_model(tmp_path, "sd3")
    loss = amdet.Objective(model, model, soft_word(model, PROMPTS, 0), amdet.AMDET(beta=0, gamma=0))
    (start, middle), (_, end) = loss.spans
    states, found = loss.states(model, PROMPTS), loss(PROMPTS)
    assert (start, end) == (0, states.shape[1])
    for i, own in enumerate((states[:, :middle], states[:, middle:])):
        torch.testing.assert_close(found[:, i], -amdet.assimilation(own))
    whole, clip = loss.curved(PROMPTS[:1], 1, 0), loss.rows[0].detach().clone()
    with torch.no_grad():
        loss.rows[0].normal_()
    assert loss.curved(PROMPTS[:1], 1, 0) == whole, "the vectors of CLIP have no part in T5's"
    assert not torch.equal(loss.rows[0], clip)
    flux = joint_model(tmp_path, "flux_dev")
    view = DefenderView(
        ("clean_prompts", "clean_text_encoder"), PROMPTS, clean_text_encoder=flux.encoders
    )
    judged = amdet.AMDET(steps=2, batch=2, prompts=3, grid=3).apply(flux, view, 0)
    assert np.isfinite(judged.screen.suspicion())


def test_curvature_counts_positive_eigenvalues() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 7), indexing="ij")
    assert positive_share(x**2 + y**2) == 1.0
    assert positive_share(-(x**2) - y**2) == 0.0
    assert positive_share(x**2 - y**2) == 0.5
    assert positive_share(x * y) == 0.5, "the mixed derivative counts"


def test_amdet_lowers_its_loss_and_gives_the_model_one_score(tiny_model) -> None:
    view = DefenderView(
        ("clean_prompts", "clean_text_encoder"), PROMPTS, clean_text_encoder=tiny_model.encoders
    )
    found = [
        amdet.AMDET(steps=n, lr=0.03, batch=3, prompts=3, grid=3).apply(tiny_model, view, 0)
        for n in (1, 30)
    ]
    few, many = (model.screen.suspicion() for model in found)
    assert np.isfinite(few)
    assert many != few
    assert found[0].screen.scores(PROMPTS).shape == (3,)


def test_amdet_finds_a_planted_assimilation(tiny_model) -> None:
    """Its loss falls by gradient steps on the vector alone."""
    word = soft_word(tiny_model, PROMPTS, 0)
    loss = amdet.Objective(tiny_model, tiny_model, word, amdet.AMDET())
    optimizer = torch.optim.Adam(loss.rows, lr=0.5)
    first = float(loss(PROMPTS).mean().detach())
    for _ in range(20):
        optimizer.zero_grad()
        loss(PROMPTS).mean().backward()
        optimizer.step()
    assert float(loss(PROMPTS).mean().detach()) < first - 0.01
