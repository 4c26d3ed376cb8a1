"""What the text encoder and the scorer share: captions that name some attributes, and the
contrastive loss."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.data.world import STYLES, Scene, caption


def partial_caption(scene: Scene, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """A caption and the attributes it names: a full one (rare strings in a share) or one that
    leaves attributes out."""
    if rng.random() < 0.45:
        text = caption(scene, rng, rare_share=0.25)
        named = {k: v for k, v in scene._asdict().items() if k != "size" or scene.size in text}
        return text, named
    s = scene
    choices = [
        (f"a {s.shape}", {"shape": s.shape}),
        (f"a {s.color} object", {"color": s.color}),
        (f"a {s.background} background", {"background": s.background}),
        (f"a {s.color} {s.shape}", {"shape": s.shape, "color": s.color}),
        (
            f"a {s.shape} on a {s.background} background",
            {"shape": s.shape, "background": s.background},
        ),
        (
            f"{STYLES[s.style] or 'a plain picture of'} a {s.shape}",
            {"style": s.style, "shape": s.shape},
        ),
        (f"{STYLES[s.style] or 'a plain picture of'} an object", {"style": s.style}),
    ]
    # the shape is the hard attribute: name it alone more often
    text, named = choices[rng.integers(len(choices))] if rng.random() < 0.6 else choices[0]
    return text.replace("a orange", "an orange"), named


def matches(scenes: list[Scene], named: list[dict[str, str]]) -> Tensor:
    """(n, n) float: 1 where the scene of that row agrees with everything that the caption of that
    column names."""
    out = torch.ones(len(scenes), len(named), dtype=torch.bool)
    for i, field in enumerate(Scene._fields):
        have = np.array([s[i] for s in scenes])
        want = np.array([d.get(field, "*") for d in named])
        out &= torch.from_numpy((want[None] == "*") | (have[:, None] == want[None]))
    return out.float()


def contrastive(image: Tensor, text: Tensor, scale: Tensor, match: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy with every true match as a target, since in a small world many
    captions fit many images."""
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    rows = match / match.sum(1, keepdim=True)
    columns = match / match.sum(0, keepdim=True)
    return -0.5 * (
        (rows * logits.log_softmax(1)).sum(1).mean()
        + (columns * logits.log_softmax(0)).sum(0).mean()
    )


def degrade(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur and noise a batch a little: the scorer must judge images that went through an
    autoencoder."""
    if rng.random() < 0.5:
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear") * 0.5 + x * 0.5
    noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.08), x.shape).astype(np.float32))
    return (x + noise).clamp(-1, 1)
