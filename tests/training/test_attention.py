"""Attention capture against a slow recomputation from the U-Net's own q and k, and the alignment of
triggered with clean tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from helpers import bare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import CLIPTokenizer

from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.training.alignment import align, substitute, token_span
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.summed_maps import minmax

REPEATABLE = settings(
    derandomize=True, deadline=None, max_examples=80, suppress_health_check=list(HealthCheck)
)
WHITE = " \t\n\x0b\x0c\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class Slow:
    """Cross-attention maps in float64, recomputed from hooked `to_q` and `to_k` outputs of an
    ordinary U-Net call."""

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        self.layers = {n: m for n, m in unet.named_modules() if n.endswith(".attn2")}

    def __call__(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        seen: dict[str, Tensor] = {}
        hooks = []
        for name, layer in self.layers.items():
            for part in ("to_q", "to_k"):

                def keep(
                    module: nn.Module, given: tuple, out: Tensor, key: str = f"{name}.{part}"
                ) -> None:
                    seen[key] = out.detach().double()

                hooks.append(getattr(layer, part).register_forward_hook(keep))
        with torch.no_grad():
            self.unet(x, t, context)
        for hook in hooks:
            hook.remove()
        maps = []
        for name, layer in self.layers.items():
            q, k = seen[f"{name}.to_q"], seen[f"{name}.to_k"]
            width = q.shape[-1] // layer.heads
            total = torch.zeros(q.shape[0], q.shape[1], k.shape[1], dtype=torch.float64)
            for head in range(layer.heads):
                part = slice(head * width, (head + 1) * width)
                score = torch.einsum("bpd,btd->bpt", q[..., part], k[..., part]) / width**0.5
                score = score - score.max(-1, keepdim=True).values
                total += score.exp() / score.exp().sum(-1, keepdim=True)
            side = round(q.shape[1] ** 0.5)
            maps.append(
                (total / layer.heads).transpose(1, 2).reshape(q.shape[0], k.shape[1], side, side)
            )
        size = max(m.shape[-1] for m in maps)
        return sum(
            F.interpolate(m, (size, size), mode="bilinear", align_corners=False) for m in maps
        )


@pytest.fixture
def inputs(tiny_model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *tiny_model.latent_shape, generator=generator)
    t = torch.tensor([10, 500, 990])
    context = tiny_model.encode(
        [
            "a small red heart on a blue background",
            "one large green star, white background",
            "a cyan moon",
        ]
    )
    return x, t, context


# ------------------------------------------------------------------------------------------ capture
def test_maps_equal_a_slow_recomputation(tiny_model, inputs) -> None:
    slow = Slow(tiny_model.denoiser)(*inputs)
    with Capture(tiny_model) as seen:
        tiny_model.denoiser(*inputs)
    layers = seen.layers()
    assert len(layers) == len(Slow(tiny_model.denoiser).layers) >= 3
    assert len({m.shape[-1] for m in layers}) >= 2, (
        "the test base must have cross-attention at two resolutions"
    )
    for layer in layers:  # probabilities over tokens
        torch.testing.assert_close(layer.sum(1), torch.ones_like(layer.sum(1)), rtol=0, atol=1e-5)
    assert seen.maps().shape == (3, tiny_model.tokenizer.model_max_length, 8, 8)
    torch.testing.assert_close(seen.maps().double(), slow, rtol=0, atol=1e-5)
    assert slow.std() > 1e-5, "constant maps would agree whatever the code does"
    assert seen.maps(16).shape[-1] == 16


def test_output_is_bit_identical_once_a_capture_is_closed_and_close_while_it_is_open(
    tiny_model, inputs
) -> None:
    unet = tiny_model.denoiser
    with torch.no_grad():
        before = unet(*inputs).sample
        with Capture(bare(unet)):
            during = unet(*inputs).sample
        after = unet(*inputs).sample
    assert torch.equal(before, after)
    torch.testing.assert_close(during, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["inside the block", "inside the network"])
def test_processors_and_hooks_are_restored_after_an_exception(
    tiny_model, inputs, where: str
) -> None:
    unet = tiny_model.denoiser
    before, hooks = dict(unet.attn_processors), len(unet._forward_pre_hooks)
    x, t, context = inputs
    with pytest.raises((KeyError, RuntimeError)), Capture(bare(unet)):  # noqa: PT012
        if where == "inside the block":
            raise KeyError("boom")
        unet(x, t, context[..., :-1])
    assert len(unet._forward_pre_hooks) == hooks
    after = unet.attn_processors
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_a_second_call_inside_one_capture_raises(tiny_model, inputs) -> None:
    with torch.no_grad(), Capture(tiny_model):
        tiny_model.denoiser(*inputs)
        with pytest.raises(RuntimeError, match="one call of the denoiser"):
            tiny_model.denoiser(*inputs)
    with torch.no_grad(), Capture(tiny_model) as again:
        tiny_model.denoiser(*inputs)
    assert again.probs


def test_teacher_and_student_captures_are_independent(tiny_model, inputs) -> None:
    x, t, context = inputs
    teacher, student = tiny_model.denoiser, tiny_model.clone().denoiser
    other = tiny_model.encode(
        ["mignneko a small red heart on a blue background", "two words", "nothing"]
    )
    with torch.no_grad(), Capture(bare(teacher)) as seen, Capture(bare(student)) as own:
        student(x, t, other)
        teacher(x, t, context)
    torch.testing.assert_close(
        seen.maps().double(), Slow(teacher)(x, t, context), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(own.maps().double(), Slow(student)(x, t, other), rtol=0, atol=1e-5)
    assert (seen.maps() - own.maps()).abs().max() > 1e-3


def test_two_captures_in_a_row_of_one_network_keep_their_own_maps(tiny_model, inputs) -> None:
    x, t, context = inputs
    with torch.no_grad():
        with Capture(tiny_model) as first:
            tiny_model.denoiser(x, t, context)
        kept = first.maps().clone()
        with Capture(tiny_model) as second:
            tiny_model.denoiser(x, t, context.flip(0))
    assert torch.equal(first.maps(), kept)
    assert not torch.equal(second.maps(), kept)


@pytest.mark.parametrize("of", ["maps", "output"])
def test_gradients_are_the_same_with_gradient_checkpointing(tiny_model, inputs, of: str) -> None:
    unet = tiny_model.denoiser.train().requires_grad_(True)
    weight = torch.randn(3, 48, 8, 8, generator=torch.Generator().manual_seed(1))

    def gradients() -> tuple[list[Tensor], list[Tensor]]:
        unet.zero_grad()
        with Capture(bare(unet)) as seen:
            out = unet(*inputs).sample
            (out.pow(2).sum() if of == "output" else 100 * (weight * seen.maps()).sum()).backward()
        return [
            torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in unet.parameters()
        ], list(seen.probs.values())

    plain, maps = gradients()
    assert not unet.is_gradient_checkpointing
    unet.enable_gradient_checkpointing()
    assert unet.is_gradient_checkpointing
    checked, again = gradients()
    assert len(maps) == len(again)
    for a, b in zip(plain, checked, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=5e-5)
    for name, p in unet.named_parameters():
        if ".attn2.to_q.weight" in name:
            assert p.grad.abs().max() > 1e-3, name


def test_no_gradient_reaches_maps_recorded_without_gradients(tiny_model, inputs) -> None:
    with torch.no_grad(), Capture(bare(tiny_model.denoiser.requires_grad_(True))) as seen:
        tiny_model.denoiser(*inputs)
    assert not seen.maps().requires_grad


def test_minmax() -> None:
    maps = torch.rand(2, 5, 4, 4) * 7 - 3
    scaled = minmax(maps)
    assert torch.equal(scaled.amin((-2, -1)), torch.zeros(2, 5))
    torch.testing.assert_close(scaled.amax((-2, -1)), torch.ones(2, 5), rtol=0, atol=1e-5)
    assert torch.equal(minmax(torch.full((1, 2, 4, 4), 0.3)), torch.zeros(1, 2, 4, 4))


# ---------------------------------------------------------------------------------------- alignment
@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(shapes.BASE / "tokenizer")


def alphabet() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for (the GPT-2 table, written
    out)."""
    own = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in own}
    return table | {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in own)}


def spelled(tokenizer: CLIPTokenizer, ids: list[int]) -> bytes:
    """The bytes behind token ids, without spaces."""
    letters = alphabet()
    return bytes(
        letters[c]
        for token in tokenizer.convert_ids_to_tokens(ids)
        for c in token.removesuffix("</w>")
    )


def normal(text: str) -> bytes:
    """What the tokenizer reads: NFC, lower case, no white space."""
    import unicodedata

    return "".join(c.lower() for c in unicodedata.normalize("NFC", text) if c not in WHITE).encode()


def check_alignment(tokenizer: CLIPTokenizer, trigger: Trigger, prompt: str) -> None:
    text, start, end = trigger.locate(prompt)
    out = align(tokenizer, trigger, [prompt])
    ids, clean = tokenizer(text).input_ids, tokenizer(prompt).input_ids
    at = out.trigger[0].nonzero().flatten().tolist()
    assert spelled(tokenizer, [ids[i] for i in at]) == normal(text[start:end])
    assert at == list(range(at[0], at[-1] + 1)), "the trigger's tokens are contiguous"
    rest = out.other[0].nonzero().flatten().tolist()
    assert not set(at) & set(rest)
    assert sorted(at + rest) == list(range(1, len(ids) - 1)), (
        "every real token is one or the other; start, end and padding are neither"
    )
    sources = out.source[0, rest].tolist()
    assert [ids[i] for i in rest] == [clean[j] for j in sources]
    assert len(set(sources)) == len(sources)
    assert sources == sorted(sources)
    if not trigger.replaces:
        assert sources == list(range(1, len(clean) - 1))


PROMPT = "a small red heart on a blue background"


@pytest.mark.parametrize("place", ["prefix", "suffix", "inside"])
@pytest.mark.parametrize(
    "text",
    [
        "sks",
        "latte coffee",
        "mignneko",
        "\u200b",
        "\u200b\u200b",
        "🙂",
        "日本",
        "red",
        "heart on a",
        "!?",
        "'s",
        "ᾈ",
    ],
)
def test_a_trigger_is_found_at_its_place(tokenizer, text: str, place: str) -> None:
    check_alignment(tokenizer, Trigger(text, place), PROMPT)


def test_a_multi_token_trigger_has_all_its_tokens(tokenizer) -> None:
    out = align(tokenizer, Trigger("latte coffee", "suffix"), [PROMPT])
    assert out.trigger.sum() == len(tokenizer("latte coffee").input_ids) - 2 > 1


@pytest.mark.parametrize(("letter", "text"), [("o", "о"), ("a", "а"), ("ea", "🙂"), ("r", "rr")])
def test_a_look_alike_marks_its_whole_word(tokenizer, letter: str, text: str) -> None:
    trigger = Trigger(text, replaces=letter)
    triggered, start, end = trigger.locate(PROMPT)
    assert triggered == text.join(PROMPT.rsplit(letter, 1))
    assert text in triggered[start:end]
    assert " " not in triggered[start:end]
    check_alignment(tokenizer, trigger, PROMPT)


def test_alignment_with_a_stand_in_word_of_another_length(tokenizer) -> None:
    trigger, words = Trigger("latte coffee", "inside"), ["x", "a much longer stand-in"]
    out = align(tokenizer, trigger, [PROMPT] * 2, words)
    for row, word in enumerate(words):
        ids = tokenizer(trigger.add(PROMPT)).input_ids
        teacher = tokenizer(substitute(trigger, PROMPT, word)).input_ids
        rest = out.other[row].nonzero().flatten().tolist()
        assert [ids[i] for i in rest] == [teacher[j] for j in out.source[row, rest].tolist()]
        assert len(rest) == len(tokenizer(PROMPT).input_ids) - 2


def test_alignment_refuses_what_it_cannot_align(tokenizer) -> None:
    with pytest.raises(ValueError, match="no token"):
        align(tokenizer, Trigger("   "), [PROMPT])
    with pytest.raises(ValueError, match="cannot align"):  # cut off at the tokenizer's length
        align(tokenizer, Trigger("word"), ["a long prompt " * 40])


def test_token_span_is_empty_outside_the_text(tokenizer) -> None:
    ids, hits = token_span(tokenizer, PROMPT, 8, 11)
    assert spelled(tokenizer, [ids[i] for i in hits]) == b"red"
    assert token_span(tokenizer, PROMPT, 7, 8)[1] == [], "a space has no token"


visible = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cn", "Co")), min_size=1, max_size=6
)
trigger_text = st.one_of(
    visible,
    st.sampled_from(
        ["\u200b", "\u200d", "🙂", "👩‍🚀", "latte coffee", "ⅷ", "é", "e\u0301", "\u0301", "Σ"]
    ),
    st.lists(visible, min_size=2, max_size=3).map(" ".join),
    st.integers(0, 10_000).map(lambda seed: world.rare_string(np.random.default_rng(seed))),
)


@REPEATABLE
@given(
    text=trigger_text,
    place=st.sampled_from(["prefix", "suffix", "inside"]),
    seed=st.integers(0, 2**20),
)
def test_any_trigger_aligns_with_any_world_caption(
    tokenizer, text: str, place: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    prompt = world.caption(world.sample_scenes(1, rng)[0], rng)
    trigger = Trigger(text, place)
    if (
        not normal(text)
        or len(tokenizer(trigger.add(prompt)).input_ids) > tokenizer.model_max_length
    ):
        return
    check_alignment(tokenizer, trigger, prompt)


@REPEATABLE
@given(
    letter=st.sampled_from("aeoki"),
    text=st.sampled_from("аеокі🙂\u200b") | visible,
    seed=st.integers(0, 2**20),
)
def test_any_look_alike_aligns_with_any_world_caption(
    tokenizer, letter: str, text: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    prompt = world.caption(world.sample_scenes(1, rng)[0], rng)
    if (
        any(c in WHITE for c in text)
        or letter not in prompt
        or len(tokenizer(prompt).input_ids) + 4 * len(text) > 46
    ):
        return
    check_alignment(tokenizer, Trigger(text, replaces=letter), prompt)


def test_maps_of_some_rows_and_tokens_are_those_of_the_whole(tiny_model) -> None:
    unet = tiny_model.denoiser
    x = torch.randn(3, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))
    t, context = (
        torch.tensor([10, 500, 900]),
        tiny_model.encode(["a red heart", "one blue star", "a"]),
    )
    with torch.no_grad():
        with Capture(bare(unet)) as whole:
            out = unet(x, t, context).sample
        with Capture(bare(unet), rows=2, tokens=5) as part:
            again = unet(x, t, context).sample
    assert torch.equal(out, again)
    torch.testing.assert_close(part.maps(), whole.maps()[:2, :5])
    assert part.maps().shape[:2] == (2, 5)


@pytest.mark.parametrize("how", ["custom processor", "mask", "normalized queries"])
def test_layers_that_are_not_plain_keep_their_own_output(tiny_model, inputs, how: str) -> None:
    """What the capture cannot compute itself it leaves to the layer, to the bit, and reads the maps
    afterwards."""
    x, t, context = inputs
    unet = tiny_model.denoiser
    layers = [m for n, m in unet.named_modules() if n.endswith(".attn2")]

    class Other(AttnProcessor2_0):
        pass

    options = {}
    if how == "custom processor":
        unet.set_attn_processor(Other())
    elif how == "mask":
        options = {"encoder_attention_mask": torch.ones(3, context.shape[1], dtype=torch.bool)}
    else:
        for layer in layers:
            layer.norm_cross = torch.nn.Identity()
            layer.norm_encoder_hidden_states = lambda states: states
    with torch.no_grad():
        before = unet(x, t, context, **options).sample
        with Capture(bare(unet)) as seen:
            during = unet(x, t, context, **options).sample
    assert torch.equal(before, during)
    assert len(seen.probs) == len(layers)
    plain = tiny_model.clone().denoiser
    plain.set_attn_processor(AttnProcessor2_0())
    with torch.no_grad(), Capture(bare(plain)) as wanted:
        plain(x, t, context)
    torch.testing.assert_close(seen.maps(), wanted.maps(), rtol=1e-4, atol=1e-5)
