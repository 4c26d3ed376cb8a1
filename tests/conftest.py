"""Tiny random models in the real formats: a diffusers Stable Diffusion folder and an open_clip
folder, built in seconds."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
import torch  # noqa: E402
from diffusers import (  # noqa: E402
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from helpers import PROMPTS, TRIGGER  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

from t2i_backdoor_bench import shapes  # noqa: E402
from t2i_backdoor_bench.contract import DefenderView, registry  # noqa: E402
from t2i_backdoor_bench.contract.hashing import digest  # noqa: E402
from t2i_backdoor_bench.models import catalog as bases  # noqa: E402
from t2i_backdoor_bench.models.loading import load_pipeline  # noqa: E402
from t2i_backdoor_bench.models.model import T2IModel  # noqa: E402
from t2i_backdoor_bench.models.sampler import Sampler  # noqa: E402
from t2i_backdoor_bench.running import two_models  # noqa: E402
from t2i_backdoor_bench.running.shared import Shared  # noqa: E402

torch.set_num_threads(1)

CONTEXT = 48
TINY_SAMPLER = Sampler(steps=2, guidance=2.0)


def tiny_tokenizer() -> CLIPTokenizer:
    """The embedded base's tokenizer where it is built, or else bytes without merges: both take any
    string."""
    folder = shapes.BASE / "tokenizer"
    if (folder / "tokenizer_config.json").is_file():
        return CLIPTokenizer.from_pretrained(folder)
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=CONTEXT
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers Stable Diffusion folder with random weights: 64 px, 8x8 latents, 48 tokens,
    cross-attention at two resolutions."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            projection_dim=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae,
        text,
        tokenizer,
        unet,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def pytest_collection_finish() -> None:
    """What is imported stays, so that looking for garbage need not go through it: a sixth of the
    time of a small run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


SECOND_MODELS: dict[str, T2IModel] = {}


@pytest.fixture(autouse=True)
def less_work(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the many runs of a test process repeat and hardly any of them is about: the second clean
    model is trained once for the runs that train the same one, and figures are files of one dot,
    but in the tests of figures and of pages and in those that are marked `figures`."""
    train = two_models.second_model

    def second_model(shared: Shared, seed: int) -> T2IModel:
        key = digest(
            {"shared": shared.plan.shared, "seed": seed, "steps": two_models.steps(shared)}
        )
        if key not in SECOND_MODELS:
            SECOND_MODELS.clear()
            SECOND_MODELS[key] = train(shared, seed)
        return SECOND_MODELS[key]

    def dot(figure: Figure, path: Path, format: str, **more: object) -> None:
        Image.new("RGB", (1, 1)).save(path, format)

    monkeypatch.setattr(two_models, "second_model", second_model)
    looks = request.node.get_closest_marker("figures") is not None
    if request.path.parent.name not in ("report", "docs") and not looks:
        monkeypatch.setattr(Figure, "savefig", dot)


@pytest.fixture
def tiny_model(tiny_base: Path) -> T2IModel:
    """A fresh T2IModel of `tiny_base`: two sampler steps, family shapes."""
    return T2IModel(load_pipeline(tiny_base), "tiny", "shapes", TINY_SAMPLER, batch=16)


@pytest.fixture
def view() -> DefenderView:
    """What a defender sees who knows the trigger and has three prompts (`helpers.TRIGGER`,
    `helpers.PROMPTS`)."""
    return DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=TRIGGER)


@pytest.fixture
def pair(tiny_model: T2IModel) -> tuple[T2IModel, T2IModel]:
    """A backdoored model, and a student that has moved away from it."""
    student = tiny_model.clone()
    torch.manual_seed(3)
    with torch.no_grad():
        for p in student.denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return tiny_model, student


@pytest.fixture(scope="session")
def tiny_scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip folder with random weights: 64 px, 16-dimensional features."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("scorers") / "tiny-scorer"
    folder.mkdir()
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(tokenizer),
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    torch.manual_seed(1)
    clip = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    with (
        torch.no_grad()
    ):  # settle the batch statistics: otherwise every image has the same features
        for module in clip.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
                module.weight.fill_(1.0)
        noise = torch.nn.functional.interpolate(
            torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(2)), scale_factor=8.0
        )
        clip.train().encode_image(noise)
    clip.eval()
    save_file(
        {k: v.contiguous() for k, v in clip.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config["text_cfg"]["hf_tokenizer_name"] = str(folder)
    preprocess = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    return folder


@pytest.fixture
def tiny(tiny_base: Path, tiny_scorer: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a registered base that is `tiny_base` with `tiny_scorer`, for the length of a
    test."""
    monkeypatch.setitem(
        bases.BASES,
        "tiny",
        bases.Base(str(tiny_base), "shapes", TINY_SAMPLER, 16, str(tiny_scorer)),
    )
    return "tiny"


@pytest.fixture
def clean_registry():
    """Lets a test register methods; what it added is gone afterwards."""
    kinds = (registry.attacks, registry.defenses, registry.metrics)
    for kind in kinds:
        kind.load()
    before = [dict(kind.entries) for kind in kinds]
    yield registry
    for kind, entries in zip(kinds, before, strict=True):
        kind.entries = entries
