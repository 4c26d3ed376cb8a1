"""Captured maps equal a slow recomputation, and a capture changes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import bare
from torch import Tensor, nn

from t2i_backdoor_bench.training.capture import Capture


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
