"""The second CLIP text encoder, of the bases that read with two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from t2i_backdoor_bench.data.world import caption, sample_scenes
from t2i_backdoor_bench.data.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, STYLES, Scene
from t2i_backdoor_bench.shapes.contrastive import contrastive, matches, partial_caption
from t2i_backdoor_bench.shapes.networks import make_second_encoder
from t2i_backdoor_bench.shapes.stream import Setting, Stream
from t2i_backdoor_bench.shapes.text_encoder import identity_loss
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng

SECOND = Optim(steps=700, lr=3e-3, batch=64, weight_decay=1e-2, warmup=50, decay=0.4)
VALUES = [tuple(v) for v in (SHAPES, COLOURS, BACKGROUNDS, SIZES, STYLES)]  # as in `Scene`


class SceneTower(nn.Module):
    """The attributes of scenes as vectors (n, dim): it stands where a CLIP has its image tower, for
    a hundredth of its time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(len(v), 64) for v in VALUES)
        self.mix = nn.Sequential(nn.Linear(64 * len(VALUES), 256), nn.GELU(), nn.Linear(256, dim))

    def forward(self, attributes: Tensor) -> Tensor:
        """int64 (n, 5) numbers of attribute values to float32 (n, dim)."""
        parts = [table(column) for table, column in zip(self.tables, attributes.T, strict=True)]
        return self.mix(torch.cat(parts, 1))


def numbered(scenes: list[Scene]) -> Tensor:
    """The attribute values of scenes by number: int64 (n, 5)."""
    return torch.tensor([[v.index(x) for v, x in zip(VALUES, s, strict=True)] for s in scenes])


def train_second_encoder(setting: Setting, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A smaller CLIP text tower with another seed. It is matched with the attributes of scenes
    instead of pictures. The token-identity term of the first encoder is put on its last but one
    layer, which is what the denoisers read."""
    seed, optim = setting.seed + 8, setting.steps(SECOND)
    torch.manual_seed(seed)
    text = make_second_encoder(tokenizer).train()
    width, words = text.config.hidden_size, len(tokenizer)
    own, before = nn.Linear(width, words), nn.Linear(width, words)
    tower = SceneTower(text.config.projection_dim)
    modules = nn.ModuleList([text, own, before, tower]).to(setting.device)
    scale = nn.Parameter(torch.tensor(2.6, device=setting.device))

    def make(step: int) -> tuple[Tensor, ...]:
        rng = step_rng(seed, step)
        scenes = sample_scenes(optim.batch, rng)
        pairs = [partial_caption(s, rng) for s in scenes]
        extra = [caption(s, rng, rare_share=1.0) for s in sample_scenes(optim.batch // 2, rng)]
        ids = tokenize(tokenizer, [t for t, _ in pairs] + extra)
        return numbered(scenes), ids, matches(scenes, [d for _, d in pairs])

    batches = Stream(make, optim.steps, setting)

    def loss_fn(step: int) -> Tensor:
        attributes, ids, match = batches(step)
        ends = (ids == tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        ids = ids[:, : int(ends.max()) + 3]
        out = text(ids, output_hidden_states=True)
        loss = contrastive(
            tower(attributes), out.text_embeds[: optim.batch], scale.clamp(max=4.6).exp(), match
        )
        hidden = F.layer_norm(out.hidden_states[-2], (width,))
        return loss + identity_loss(own, before, hidden, ids, ends)

    fit(
        [*modules.parameters(), scale],
        loss_fn,
        optim,
        "second text encoder",
        setting.work / "second-encoder.ckpt",
    )
    return text.eval()
