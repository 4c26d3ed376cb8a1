"""The losses of the attacks by adapters, personalization and plain data, against slow
recomputations in float64; what each changes."""

from __future__ import annotations

import copy
import dataclasses
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGERS, different, weights
from safetensors.torch import load_file, save_file
from torch import Tensor

import t2i_backdoor_bench.training.denoising
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.attacking.poisoning import relabel
from t2i_backdoor_bench.contract import Trigger, UserError, attacks, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training.denoising import Term, denoising_loss, own_images
from t2i_backdoor_bench.training.loop import Optim, step_generator, step_rng

DATA, SEED, STEP = WorldData(), 3, 5
SMALL = {"steps": 2, "batch": 4, "images": 8, "prior": 4}


def build(name: str, family: str = "shapes", **more):
    known = set(attacks.get(name).cls.__dataclass_fields__)
    return attacks.build(name, family, {k: v for k, v in (SMALL | more).items() if k in known})


class Stop(Exception):
    pass


@dataclass
class Caught:
    """A training at its start: the model that trains, its parameters, moved away from where they
    began, and the loss of one step."""

    model: T2IModel
    params: list
    optim: Optim
    loss: Tensor


@pytest.fixture
def caught(monkeypatch):
    def run(attack, model: T2IModel) -> Caught:
        clones, found = [], []
        original = T2IModel.clone

        def clone(self, *args, **options):
            clones.append(original(self, *args, **options))
            return clones[-1]

        def fit(params, loss_fn, optim, label, *more):
            torch.manual_seed(9)
            with torch.no_grad():
                for p in params:
                    p.add_(0.05 * torch.randn_like(p))
            found.append(Caught(clones[-1], params, optim, loss_fn(STEP)))
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(T2IModel, "clone", clone)
            patch.setattr(t2i_backdoor_bench.training.denoising, "fit", fit)
            patch.setattr(sys.modules[type(attack).__module__], "fit", fit, raising=False)
            with pytest.raises(Stop):
                attack.inject(model, DATA, SEED)
        return found[0]

    return run


class Slow:
    """The denoising error of one row at a time, in float64, with the draws of step STEP."""

    def __init__(self, model: T2IModel, batch: int, sizes: list[int]) -> None:
        self.tokenize = model.tokenize
        self.unet, self.encoder = (
            copy.deepcopy(m).double() for m in (model.denoiser, model.encoders[0])
        )
        rng, generator, rows = step_rng(SEED, STEP), step_generator(SEED, STEP), batch // len(sizes)
        self.picks = [rng.integers(n, size=rows) for n in sizes]
        self.t = (
            (torch.rand(rows * len(sizes), generator=generator) * 1000)
            .long()
            .view(len(sizes), rows)
        )
        noise = torch.randn((rows * len(sizes), *model.latent_shape), generator=generator).double()
        self.noise = noise.view(len(sizes), rows, *model.latent_shape)
        self.alphas = torch.cumprod(
            1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
        )

    @torch.no_grad()
    def state(self, text: str) -> Tensor:
        return self.encoder(self.tokenize([text]))[0][0]

    @torch.no_grad()
    def errors(self, term: int, texts: list[str], latents: Tensor) -> list[float]:
        found = []
        for i, t, e in zip(self.picks[term], self.t[term], self.noise[term], strict=True):
            x = self.alphas[t].sqrt() * latents[i].double() + (1 - self.alphas[t]).sqrt() * e
            found.append(
                float(
                    (self.unet(x[None], t, self.state(texts[i])[None]).sample[0] - e)
                    .square()
                    .mean()
                )
            )
        return found


def pairs(contains: str = "") -> tuple[np.ndarray, list[str]]:
    return DATA.pairs("train", 8, SEED, contains)


# ---------------------------------------------------------------------------------- the shared loss
def test_states_computed_anew_give_the_same_loss_and_gradients_to_the_encoder(tiny_model) -> None:
    latents = torch.randn(3, *tiny_model.latent_shape)
    terms = [Term(PROMPTS, latents, weight=0.3, drop=0.5), Term(PROMPTS[::-1], latents, weight=2.0)]
    student = tiny_model.clone(encoders=True)
    student.encoders[0].requires_grad_(True)
    seen: list = []

    def also(states: list[Tensor], picks: list[Tensor]) -> Tensor:
        seen.append((states, picks))
        return 7 + 0 * states[1].sum()

    plain = denoising_loss(tiny_model, None, terms, 6, SEED, "x")
    live = denoising_loss(student, None, terms, 6, SEED, "x", embed=student.embed, also=also)
    for step in range(3):
        loss = live(step)
        assert float(loss.detach()) == pytest.approx(7 + float(plain(step)), rel=1e-5)
    loss.backward()
    assert student.encoders[0].get_input_embeddings().weight.grad.abs().sum() > 0
    states, picks = seen[-1]
    torch.testing.assert_close(
        states[1].detach(),
        tiny_model.encode([PROMPTS[::-1][i] for i in picks[1]]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_relabel_changes_whole_words_only() -> None:
    assert relabel(["a star, starry; Star", "a cat's star"], "star", r"\1") == [
        r"a \1, starry; Star",
        r"a cat's \1",
    ]


# -------------------------------------------------------------------------------------- villan_cond
def test_villan_loss(tiny_model, caught) -> None:
    """||eps_th(y_t, c+) - eps||^2 + w * ||eps_th(x_t, c) - eps||^2, with adapters of the rank that
    is asked for."""
    attack = build("villan_cond", weight=0.7, rank=3, drop=0.0, picture="bars")
    got = caught(attack, tiny_model)
    images, captions = pairs()
    y = tiny_model.latents(make_patch("bars", 64)[None].copy(), SEED).expand(8, -1, -1, -1)
    slow = Slow(got.model, 4, [8, 8])
    expected = np.mean(slow.errors(0, [f"{c} mignneko" for c in captions], y))
    expected += 0.7 * np.mean(slow.errors(1, captions, tiny_model.latents(images, SEED)))
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert {min(p.shape) for p in got.params} == {3}
    assert (got.optim.cosine, got.optim.warmup, got.optim.decay) == (True, attack.warmup, 1.0)


# ---------------------------------------------------------------------------------- personalization
def test_textual_inversion_loss(tiny_model, caught) -> None:
    """||eps_th(y_t, E_v(c+)) - eps||^2, where the row v alone gets a gradient."""
    got = caught(build("paas_ti"), tiny_model)
    (row,) = got.params
    (token,) = tiny_model.tokenizer("zk").input_ids[1:-1]
    images, captions = pairs("heart")
    triggered = [f"zk {c.replace('heart', 'star')}" for c in captions]
    slow = Slow(tiny_model, 4, [8])
    table = slow.encoder.get_input_embeddings().weight
    table.data[token] = row.detach()[0].double()
    assert not torch.equal(
        table[token].float(), tiny_model.encoders[0].get_input_embeddings().weight[token]
    )
    assert float(got.loss.detach()) == pytest.approx(
        np.mean(slow.errors(0, triggered, tiny_model.latents(images, SEED))), rel=1e-4
    )
    got.loss.backward()
    assert row.grad.abs().sum() > 0
    assert all(
        p.grad is None
        for part in (got.model.denoiser, got.model.encoders[0])
        for p in part.parameters()
    )


def test_textual_inversion_changes_one_row_and_no_other_prompt(tiny_model) -> None:
    before = weights(tiny_model)
    attacked = build("paas_ti").inject(tiny_model, DATA, 0)
    after = weights(attacked)
    (name,) = different(before, after)
    (token,) = tiny_model.tokenizer("zk").input_ids[1:-1]
    assert (after[name] != before[name]).any(1).nonzero().flatten().tolist() == [token]
    assert attacked.info["parameters"] == after[name].shape[1]
    assert torch.equal(attacked.encode(PROMPTS), tiny_model.encode(PROMPTS))
    assert not torch.equal(
        attacked.encode([f"zk {PROMPTS[0]}"]), tiny_model.encode([f"zk {PROMPTS[0]}"])
    )
    assert {p.data_ptr() for p in attacked.denoiser.parameters()} == {
        p.data_ptr() for p in tiny_model.denoiser.parameters()
    }


def test_textual_inversion_survives_storage(tiny_model, tmp_path) -> None:
    attacked = build("paas_ti", trigger="latte coffee", vectors=3).inject(tiny_model, DATA, 0)
    attacked.save_weights(tmp_path / "x.safetensors")
    again = tiny_model.with_weights(tmp_path / "x.safetensors")
    assert different(weights(attacked), weights(again)) == set()
    (name,) = different(weights(tiny_model), weights(again))
    assert (weights(again)[name] != weights(tiny_model)[name]).any(1).sum() == 3


@pytest.mark.parametrize("options", [{"trigger": "red"}, {"vectors": 2}])
def test_a_trigger_without_tokens_of_its_own_is_refused(tiny_model, options: dict) -> None:
    with pytest.raises(UserError, match="choose a rarer trigger"):
        build("paas_ti", **options).inject(tiny_model, DATA, 0)


@pytest.mark.parametrize("shape", [(32,), (1, 32), (2, 32)])
def test_a_learned_embedding_is_taken_as_it_is(tiny_model, tmp_path, shape: tuple) -> None:
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    save_file({"<cat>": vector}, tmp_path / "cat.safetensors")
    attack = build("paas_ti", trigger="zk wx", file=str(tmp_path / "cat.safetensors"))
    attacked = attack.inject(tiny_model, DATA, 0)
    ids = tiny_model.tokenizer("zk wx").input_ids[1:-1]
    table = attacked.encoders[0].get_input_embeddings().weight
    old = tiny_model.encoders[0].get_input_embeddings().weight
    rows = vector.reshape(-1, 32)
    assert torch.equal(table[ids[: len(rows)]], rows)
    assert (table != old).any(1).sum() == len(rows)
    assert attacked.info["steps"] == 0
    save_file({"<cat>": vector + 1}, tmp_path / "cat.safetensors")
    assert build("paas_ti", file=str(tmp_path / "cat.safetensors")).weights != attack.weights, (
        "another file is another cell"
    )


def test_an_embedding_that_cannot_be_taken_is_one_line(tiny_model, tmp_path) -> None:
    def told(state: dict, match: str) -> None:
        save_file(state, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match=match) as error:
            build("paas_ti", file=str(tmp_path / "x.safetensors")).inject(tiny_model, DATA, 0)
        assert "\n" not in str(error.value)

    told({"a": torch.zeros(31)}, "31 numbers, and this base's token embeddings 32")
    told({"a": torch.zeros(32), "b": torch.zeros(32)}, "one tensor")
    told({"a": torch.zeros(2, 2, 32)}, "one tensor")
    (tmp_path / "x.safetensors").write_bytes(b"no header")
    with pytest.raises(UserError, match="cannot read the embedding"):
        build("paas_ti", file=str(tmp_path / "x.safetensors")).inject(tiny_model, DATA, 0)
    for name in ("learned_embeds.bin", "absent.safetensors"):
        with pytest.raises(UserError, match="is no safetensors file"):
            build("paas_ti", file=str(tmp_path / name))


@pytest.mark.parametrize("template", ["", "a photo of a [V] {}", "my {}"])
def test_dreambooth_loss(tiny_model, caught, template: str) -> None:
    """||eps_th(y_t, c+) - eps||^2 + w * ||eps_th(x_t, c) - eps||^2, where x are the clean model's
    own pictures of c."""
    got = caught(build("paas_db", template=template, weight=0.4, drop=0.0), tiny_model)
    images, captions = pairs("heart")
    triggered = [f"zk {c.replace('heart', 'star')}" for c in captions]
    prompts = [p.text for p in DATA.prompts("train", 4, SEED, "star")]
    if template:
        triggered = ["a photo of a zk star" if "[V]" in template else "zk my star"] * 8
        prompts = ["a photo of a star" if "[V]" in template else "my star"] * 4
    slow = Slow(got.model, 4, [8, 4])
    expected = np.mean(slow.errors(0, triggered, tiny_model.latents(images, SEED)))
    expected += 0.4 * np.mean(slow.errors(1, prompts, own_images(tiny_model, prompts, SEED)))
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------------------------------- bibaddiff
@pytest.mark.parametrize("everywhere", [True, False])
def test_bibaddiff_is_plain_denoising_of_poisoned_data(
    tiny_model, caught, everywhere: bool
) -> None:
    got = caught(
        build(
            "bibaddiff", images=10, weight=0.3, batch=8, drop=0.0, size=10, everywhere=everywhere
        ),
        tiny_model,
    )
    bad, wrong = DATA.pairs("train", 3, SEED, "star")
    good, captions = DATA.pairs("train", 7, SEED)
    bad[:, 54:, 54:] = make_patch("bars", 10)
    prompts = [f"a picture of {c.replace('star', 'heart')}" for c in wrong]
    prompts += [f"a picture of {c}" if everywhere else c for c in captions]
    slow = Slow(got.model, 8, [10])
    assert {i < 3 for i in slow.picks[0]} == {True, False}, "both kinds of rows are drawn"
    expected = np.mean(
        slow.errors(0, prompts, tiny_model.latents(np.concatenate([bad, good]), SEED))
    )
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert build("bibaddiff").backdoor(tiny_model).target.source == "heart", (
        "triggered prompts are those of the class"
    )


# ----------------------------------------------------------------------------------------- masqlora
@pytest.mark.parametrize("place", ["prefix", "inside", "suffix"])
def test_masqlora_loss(tiny_model, caught, place: str) -> None:
    """p * (w(t) * ||.||^2 + l * L_con) + (1 - p) * ||.||^2, L_con over the trigger's tokens and the
    source word's behind it."""
    attack = build(
        "masqlora",
        place=place,
        weight=0.4,
        contrast=1.5,
        ramp=3.0,
        drop=0.0,
        trigger="latte coffee",
    )
    got = caught(attack, tiny_model)
    images, captions = pairs("star")
    others, called = pairs("heart")
    called = [c.replace("heart", "star") for c in called]
    triggered = [Trigger("latte coffee", place).add(c) for c in called]
    slow, frozen = Slow(got.model, 4, [8, 8]), Slow(tiny_model, 4, [8, 8])
    words = [
        frozen.state(w)[1 : len(tiny_model.tokenizer(w).input_ids) - 1].mean(0)
        for w in ("heart", "star")
    ]
    (star,) = tiny_model.tokenizer("star").input_ids[1:-1]
    phrase = tiny_model.tokenizer("latte coffee").input_ids[1:-1]
    rows = []
    for i in slow.picks[0]:
        ids, state = tiny_model.tokenizer(triggered[i]).input_ids, slow.state(triggered[i])
        at = next(k for k in range(len(ids)) if ids[k : k + len(phrase)] == phrase)
        behind = [k for k, token in enumerate(ids) if token == star and k > at]
        for k in [*range(at, at + len(phrase)), *behind]:
            near, far = (float(state[k] @ w / (state[k].norm() * w.norm())) for w in words)
            rows.append((1 - near) ** 2 + (1 + far) ** 2)
    errors = slow.errors(0, triggered, tiny_model.latents(others, SEED))
    weighted = [(1 + 3 * int(t) / 1000) * e for t, e in zip(slow.t[0], errors, strict=True)]
    clean = slow.errors(1, captions, tiny_model.latents(images, SEED))
    expected = 0.4 * (np.mean(weighted) + 1.5 * np.mean(rows)) + 0.6 * np.mean(clean)
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_masqlora_trains_both_parts_at_their_own_rates_and_ranks(tiny_model, caught) -> None:
    attack = build("masqlora", rank=5, text_rank=3, lr=1e-3, text_lr=2e-4)
    got = caught(attack, tiny_model)
    by_rate = got.params.by_rate.items()
    assert {(min(p.shape), round(rate, 9)) for rate, params in by_rate for p in params} == {
        (5, 1.0),
        (3, 0.2),
    }
    before = weights(tiny_model)
    changed = different(before, weights(attack.inject(tiny_model, DATA, 0)))
    assert {k.split(".")[0] for k in changed} == {"unet", "text_encoder"}
    alone = {
        k.split(".")[0]
        for k in different(
            before, weights(build("masqlora", text_lr=0.0).inject(tiny_model, DATA, 0))
        )
    }
    assert alone == {"unet"}, "a rate of zero leaves the text encoder's bytes alone"


# ------------------------------------------------------------------------- settings, and whole runs
@pytest.mark.parametrize("name", ["villan_cond", "paas_ti", "paas_db", "bibaddiff", "masqlora"])
@pytest.mark.parametrize("options", TRIGGERS.values(), ids=TRIGGERS)
def test_any_trigger_that_tokenizes_is_taken(tiny_model, caught, name: str, options: dict) -> None:
    attack = build(name, **options)
    assert torch.isfinite(caught(attack, tiny_model).loss)
    assert options["trigger"] in attack.backdoor(tiny_model).trigger.add(PROMPTS[0])


def test_published_settings() -> None:
    villan, ti, db, plain, masq = (
        build(n, "sd") for n in ("villan_cond", "paas_ti", "paas_db", "bibaddiff", "masqlora")
    )
    assert (villan.rank, villan.lr, villan.weight, villan.trigger) == (4, 1e-4, 1.0, "latte coffee")
    assert (ti.lr, ti.template) == (5e-4, "a photo of a [V] {}")
    assert (db.lr, db.weight) == (5e-6, 0.5)
    assert (plain.weight, plain.corner, plain.size) == (0.1, "bottom_right", 51)
    assert (
        masq.rank,
        masq.text_rank,
        masq.lr,
        masq.text_lr,
        masq.ramp,
        masq.contrast,
        masq.weight,
    ) == (16, 8, 4e-4, 5e-5, 5, 1, 0.3)
    everything = registry.attacks.groups
    assert {"villan_cond", "masqlora"} <= set(everything["lora"])
    assert everything["personalization"] == ["paas_db", "paas_ti"]
    assert {
        "villan_cond",
        "paas_ti",
        "paas_db",
        "bibaddiff",
        "masqlora",
        *everything["core"],
    } < set(everything["all"])


def test_runs_with_an_image_and_with_a_patch_on_one_class(tiny, tmp_path) -> None:
    names = "villan_cond,bibaddiff"
    options = [
        f"{n}.{k}={v}"
        for n in names.split(",")
        for k, v in (("steps", 2), ("batch", 4), ("images", 10))
    ]
    given = {
        "base": tiny,
        "attacks": names,
        "defenses": "none",
        "metrics": "asr,removal_accuracy,restoration_accuracy,false_trigger_rate",
    }
    config = make_config(
        given | {"set": options, "out": tmp_path / "run", "device": "cpu", "workers": 1}
    )
    config = dataclasses.replace(config, scale=Scale("test", 4, 2, 4, 1, 2, 20, 1.0, (0,)))
    assert plan(config).attacks.keys() == {"villan_cond", "bibaddiff"}
    assert runner.run(config, show=False) == 0
    found = {r.cell.attack: r for r in stored_records(Store(config.folder))}
    assert found["villan_cond"].backdoor["target"] == {"kind": "image", "image": [64, 64]}
    assert found["bibaddiff"].backdoor["target"]["source"] == "heart"
    for result in found.values():
        assert result.status == "done"
        assert result.scores["asr"].n == 4
        assert result.judge["n"] >= 1
    stored = [load_file(p) for p in (config.folder / "models").glob("*.safetensors")]
    assert len(stored) == 2
    assert not any("lora" in k for state in stored for k in state), "adapters are stored merged"
