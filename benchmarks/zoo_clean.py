"""The clean models of the zoo: what people do to a model who plant nothing in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.data.world import SHAPES
from t2i_backdoor_bench.data.world.styles import apply_style
from t2i_backdoor_bench.models.model import T2IModel

PAIRS = 512
RATES = {"full": 5e-4, "cross": 1e-3, "kv": 1e-3, "lora": 1e-3}


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning on captioned pictures of the train split: all of them, or those of one `shape`.
    `word` stands for the shape in the captions, as a word that a user teaches the model; with
    `style`, the pictures are in that style and `word` stands before the captions."""

    name: str
    seed: int = 0
    train: str = "full"
    steps: int = 300
    shape: str = ""
    word: str = ""
    style: str = ""

    def pairs(self) -> tuple[np.ndarray, list[str]]:
        images, captions = WorldData().pairs("train", PAIRS, self.seed + 100, self.shape)
        if self.style:
            drawn = apply_style(images.astype(np.float32), self.style)
            images = drawn.round().clip(0, 255).astype(np.uint8)
            return images, [f"{self.word} {caption}" for caption in captions]
        if self.word:
            captions = [caption.replace(self.shape, self.word) for caption in captions]
        return images, captions

    def make(self, base: T2IModel) -> T2IModel:
        options = {"steps": self.steps, "train": self.train, "lr": RATES[self.train]}
        method = registry.defenses.build("clean_finetune", "shapes", options)
        view = DefenderView(("clean_pairs",), list, clean_pairs=self.pairs)
        return method.apply(base, view, self.seed)


@dataclass(frozen=True)
class Changed:
    """Every weight of the edited networks changed by a rule."""

    name: str
    rule: Callable[[Tensor, torch.Generator], Tensor]

    def make(self, base: T2IModel) -> T2IModel:
        out, generator = base.clone(encoders=True), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for network in out.edited.values():
                for p in network.parameters():
                    p.copy_(self.rule(p, generator))
        return out


@dataclass(frozen=True)
class Merged:
    """The mean of two fine-tuned models."""

    name: str
    parts: tuple[Tuned, Tuned]

    def make(self, base: T2IModel) -> T2IModel:
        out, other = (part.make(base) for part in self.parts)
        with torch.no_grad():
            pairs = zip(out.denoiser.parameters(), other.denoiser.parameters(), strict=True)
            for p, q in pairs:
                p.copy_((p + q) / 2)
        return out


def rounded(dtype: torch.dtype) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda p, generator: p.to(dtype).to(p.dtype)


def int8(p: Tensor, generator: torch.Generator) -> Tensor:
    """Rounded to 255 levels, of a scale of its own for each tensor."""
    scale = p.abs().max().clamp(min=1e-12) / 127
    return (p / scale).round() * scale


def noisy(share: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Noise of a share of the weights' own spread."""

    def rule(p: Tensor, generator: torch.Generator) -> Tensor:
        spread = float(p.std()) if p.numel() > 1 else 0.0
        return p + share * spread * torch.randn(p.shape, generator=generator)

    return rule


def recipes() -> list[Tuned | Changed | Merged]:
    found: list[Tuned | Changed | Merged] = [
        Changed("itself", lambda p, generator: p),
        Changed("float16", rounded(torch.float16)),
        Changed("bfloat16", rounded(torch.bfloat16)),
        Changed("int8", int8),
        Changed("noise 1 %", noisy(0.01)),
        Changed("noise 3 %", noisy(0.03)),
    ]
    lengths = (100, 200, 300, 600)
    for train, many in (("full", 8), ("cross", 4), ("lora", 6)):
        found += [
            Tuned(f"{train}, seed {s}, {n} steps", s, train, n)
            for s, n in ((s, lengths[s % len(lengths)]) for s in range(many))
        ]
    found += [Tuned(f"only {s}", 20 + i, shape=s) for i, s in enumerate(sorted(SHAPES)[:6])]
    words = ("zorbik", "plimo", "hq shot", "vexil")
    shapes = sorted(SHAPES)
    found += [
        Tuned(f"{w} for {s}", 30 + i, ("full", "lora")[i % 2], shape=s, word=w)
        for i, (w, s) in enumerate(zip(words, shapes[2:], strict=False))
    ]
    found += [
        Tuned(f"{w} for {s} style", 40 + i, ("lora", "full")[i % 2], word=w, style=s)
        for i, (w, s) in enumerate(
            zip(words, ("sketch", "sepia", "negative", "pixel"), strict=True)
        )
    ]
    pairs = [(Tuned("", 50 + 2 * i), Tuned("", 51 + 2 * i, "cross")) for i in range(2)]
    return [*found, *(Merged(f"mean of two, {i}", both) for i, both in enumerate(pairs))]


def path_of(recipe: Tuned | Changed | Merged, folder: Path) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in recipe.name)
    return folder / "clean" / f"{name}.safetensors"


def make(base: T2IModel, folder: Path) -> None:
    """Those that are not stored."""
    (folder / "clean").mkdir(parents=True, exist_ok=True)
    for number, recipe in enumerate(recipes(), 1):
        path = path_of(recipe, folder)
        if not path.is_file():
            print(f"clean model {number} of {len(recipes())}: {recipe.name}", flush=True)
            part = path.with_suffix(".part")
            recipe.make(base).save_weights(part)
            part.rename(path)


def made(base: T2IModel, folder: Path) -> Iterator[tuple[str, T2IModel]]:
    """Name and model of those that are stored."""
    for recipe in recipes():
        path = path_of(recipe, folder)
        if path.is_file():
            yield recipe.name, base.with_weights(path)
