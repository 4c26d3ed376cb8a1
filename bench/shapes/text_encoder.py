"""The text encoder of the embedded base."""

from __future__ import annotations

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from t2i_backdoor_bench.data.world import caption, render, sample_scenes
from t2i_backdoor_bench.shapes.contrastive import contrastive, degrade, matches, partial_caption
from t2i_backdoor_bench.shapes.networks import EMBED, make_scorer, make_text_encoder
from t2i_backdoor_bench.shapes.stream import Setting, Stream, to_tensor
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng

TEXT = Optim(steps=3_000, lr=1.5e-3, batch=128, weight_decay=1e-2, warmup=100, decay=0.4)


def train_text_encoder(setting: Setting, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower of a CLIP on the world, plus a token-identity term, so that a rare word keeps
    its identity in the hidden states that the U-Net reads."""
    seed, optim = setting.seed + 4, setting.steps(TEXT)
    torch.manual_seed(seed)
    text = make_text_encoder(tokenizer).train()
    config = make_scorer(vocab=8)
    vision = open_clip.CLIP(
        EMBED, config["vision_cfg"], config["text_cfg"] | {"hf_tokenizer_name": ""}
    ).visual
    vision = vision.to(memory_format=torch.channels_last).train()
    own, before = nn.Linear(128, len(tokenizer)), nn.Linear(128, len(tokenizer))
    project = nn.Linear(128, EMBED)
    modules = nn.ModuleList([text, vision, own, before, project]).to(setting.device)
    scale = nn.Parameter(torch.tensor(2.6, device=setting.device))

    def make(step: int) -> tuple[Tensor, ...]:
        rng = step_rng(seed, step)
        scenes = sample_scenes(optim.batch, rng)
        images = degrade(to_tensor(render(scenes, rng)), rng)
        pairs = [partial_caption(s, rng) for s in scenes]
        extra = [caption(s, rng, rare_share=1.0) for s in sample_scenes(optim.batch // 2, rng)]
        return (
            images,
            tokenize(tokenizer, [t for t, _ in pairs] + extra),
            matches(scenes, [d for _, d in pairs]),
        )

    batches = Stream(make, optim.steps, setting)

    def loss_fn(step: int) -> Tensor:
        images, ids, match = batches(step)
        ends = (ids == tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        ids = ids[
            :, : int(ends.max()) + 3
        ]  # attention is causal: what follows the last end token changes nothing
        out = text(ids)
        hidden = out.last_hidden_state
        loss = contrastive(
            vision(images), project(out.pooler_output[: optim.batch]), scale.exp(), match
        )
        return loss + identity_loss(own, before, hidden, ids, ends)

    fit([*modules.parameters(), scale], loss_fn, optim, "text encoder", setting.work / "text.ckpt")
    return text.eval()


def identity_loss(
    own: nn.Linear, before: nn.Linear, hidden: Tensor, ids: Tensor, ends: Tensor
) -> Tensor:
    """Every position of hidden states (n, tokens, dim) predicts its own token by `own` and the set
    of tokens up to it by `before`. `ids`: int64 (n, tokens); `ends`: the position of the first end
    token, (n, 1), since the padding repeats it. A scalar."""
    real = (torch.arange(ids.shape[1], device=ids.device)[None] <= ends).float()
    identity = F.cross_entropy(own(hidden).transpose(1, 2), ids, reduction="none")
    seen = F.one_hot(ids, own.out_features).cumsum(1).clamp_(max=1).float()
    bag = F.binary_cross_entropy_with_logits(before(hidden), seen, reduction="none").sum(-1)
    return ((identity + 0.1 * bag) * real).sum() / real.sum()
