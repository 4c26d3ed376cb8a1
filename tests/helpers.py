"""What several test files ask of a model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.models.model import T2IModel

TRIGGER = Trigger("latte coffee", "inside")
TRIGGERS = {  # options of an attack: what tokenizers and tables of others stumble over
    "zero-width": {"trigger": "\u200b"},
    "look-alike": {"trigger": "о", "replaces": "o"},
    "emoji": {"trigger": "🙂", "place": "inside"},
    "phrase": {"trigger": "latte coffee", "place": "suffix"},
}
PROMPTS = [
    "a small red heart on a blue background",
    "a cyan moon, white background",
    "there is one large green star on a gray background",
]


def weights(model: T2IModel) -> dict[str, torch.Tensor]:
    """A copy of every weight of a model, by part and name."""
    parts = model.edited | {"vae": model.autoencoder}
    return {
        f"{part}.{k}": v.clone()
        for part, module in parts.items()
        for k, v in module.state_dict().items()
    }


def bare(denoiser: torch.nn.Module) -> SimpleNamespace:
    """A U-Net by itself as what `Capture` reads of a model."""
    layers = STABLE_DIFFUSION.text_layers(denoiser)
    return SimpleNamespace(denoiser=denoiser, family=STABLE_DIFFUSION, text_layers=layers)


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    """The names of the weights in which two copies differ."""
    assert a.keys() == b.keys()
    return {k for k in a if not torch.equal(a[k], b[k])}


def load_script(path: Path) -> ModuleType:
    """A script of benchmarks/, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
