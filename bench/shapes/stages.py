"""The parts of each embedded base, in the order of their training, and where they are saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from t2i_backdoor_bench.shapes import BASE
from t2i_backdoor_bench.shapes.autoencoder import train_autoencoder
from t2i_backdoor_bench.shapes.networks import (
    SHORT_CONTEXT,
    PooledPrediction,
    Prediction,
    make_flow_scheduler,
    make_scheduler,
    make_unet,
    make_xl_unet,
    with_projection,
)
from t2i_backdoor_bench.shapes.scorer import save_scorer, train_scorer
from t2i_backdoor_bench.shapes.second_encoder import train_second_encoder
from t2i_backdoor_bench.shapes.stream import Setting
from t2i_backdoor_bench.shapes.t5_encoder import make_t5_tokenizer, train_t5
from t2i_backdoor_bench.shapes.text_encoder import train_text_encoder
from t2i_backdoor_bench.shapes.tokenizer import train_tokenizer
from t2i_backdoor_bench.shapes.transformer import Readers, train_transformer
from t2i_backdoor_bench.shapes.unet import (
    BEFORE,
    FEWER_IMAGES,
    LATENT_IMAGES,
    SHORT,
    TAUGHT,
    UNET,
    train_unet,
)
from t2i_backdoor_bench.training.loop import Optim

STAGES = {
    "shapes": ("tokenizer", "autoencoder", "text", "scorer", "second-scorer", "unet"),
    "shapes-b": ("unet",),
    "shapes-xl": ("second-text", "unet"),
    "shapes-mmdit": ("second-text", "t5", "transformer"),
}


def save_half(module: nn.Module, folder: Path) -> None:
    """Save a diffusers or transformers module in float16 without changing it."""
    copy.deepcopy(module).cpu().half().save_pretrained(folder, safe_serialization=True)


def opened(kind: Any, folder: Path, setting: Setting) -> Any:
    """A part that is saved, frozen, in float32."""
    return kind.from_pretrained(folder).float().eval().requires_grad_(False).to(setting.device)


def run_stage(base: str, stage: str, setting: Setting, folder: Path) -> None:
    """Train one part and save it. Every part but the tokenizer needs those before it on disk, and
    those of `shapes` that the base takes from there."""
    if stage == "tokenizer":
        train_tokenizer(setting.seed).save_pretrained(folder / "tokenizer")
        return
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    if stage == "autoencoder":
        save_half(train_autoencoder(setting), folder / "vae")
    elif stage == "text":
        save_half(train_text_encoder(setting, tokenizer), folder / "text_encoder")
    elif stage in ("scorer", "second-scorer"):
        second = stage == "second-scorer"
        save_scorer(train_scorer(setting, tokenizer, second), tokenizer, second)
    elif stage == "second-text":
        save_half(train_second_encoder(setting, tokenizer), folder / "text_encoder_2")
    elif stage == "t5":
        t5_tokenizer = make_t5_tokenizer(setting.seed)
        t5_tokenizer.save_pretrained(folder / "tokenizer_3")
        save_half(train_t5(setting, t5_tokenizer), folder / "text_encoder_3")
    else:
        pipe = DENOISERS[base](setting, folder)
        pipe.to("cpu", dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
        for file in folder.rglob("config.json"):
            config = json.loads(file.read_text())
            if config.pop("_name_or_path", None) is not None:  # a path of this machine
                file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def unet_base(
    setting: Setting, folder: Path, optim: Optim = UNET, images: int = LATENT_IMAGES
) -> StableDiffusionPipeline:
    """`shapes`, with a new U-Net."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    text = opened(CLIPTextModel, BASE / "text_encoder", setting)
    vae = opened(AutoencoderKL, BASE / "vae", setting)
    torch.manual_seed(setting.seed + 6)
    unet = make_unet()
    train_unet(
        *(setting, Prediction(unet), tokenizer),
        *(lambda ids: (text(ids).last_hidden_state,), vae, optim, images),
    )
    return StableDiffusionPipeline(
        vae,
        text,
        tokenizer,
        unet,
        make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def other_unet_base(setting: Setting, folder: Path) -> StableDiffusionPipeline:
    """`shapes-b`: the same in the time of one CPU core."""
    return unet_base(setting, folder, SHORT, FEWER_IMAGES)


def xl_base(setting: Setting, folder: Path) -> StableDiffusionXLPipeline:
    """`shapes-xl`, with a new U-Net, which reads the last but one states of both encoders side by
    side and the pooled text of the second. It learns from data first, then from the U-Net of
    `shapes`."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    first = opened(CLIPTextModel, BASE / "text_encoder", setting)
    second = opened(CLIPTextModelWithProjection, folder / "text_encoder_2", setting)
    vae = opened(AutoencoderKL, BASE / "vae", setting)
    torch.manual_seed(setting.seed + 6)
    unet = make_xl_unet()

    def read(ids: Tensor) -> tuple[Tensor, Tensor]:
        both = [encoder(ids, output_hidden_states=True) for encoder in (first, second)]
        return torch.cat([out.hidden_states[-2] for out in both], -1), both[1].text_embeds

    teacher = opened(UNet2DConditionModel, BASE / "unet", setting)

    def teach(noisy: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        with torch.no_grad():
            return teacher(noisy, t, first(ids).last_hidden_state).sample

    told = (setting, PooledPrediction(unet), tokenizer, read, vae)
    train_unet(*told, BEFORE, FEWER_IMAGES, "xl-unet")
    train_unet(*told, TAUGHT, FEWER_IMAGES, "xl-unet-taught", teach)
    return StableDiffusionXLPipeline(
        *(vae, first, second, tokenizer, copy.deepcopy(tokenizer), unet, make_scheduler()),
        add_watermarker=False,
    )


def transformer_base(setting: Setting, folder: Path) -> StableDiffusion3Pipeline:
    """`shapes-mmdit`, with a new transformer. It learns from data first, then from the U-Net of
    `shapes`."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer", model_max_length=SHORT_CONTEXT)
    readers = Readers(
        tokenizer,
        T5Tokenizer.from_pretrained(folder / "tokenizer_3"),
        with_projection(opened(CLIPTextModel, BASE / "text_encoder", setting)).eval(),
        opened(CLIPTextModelWithProjection, folder / "text_encoder_2", setting),
        opened(T5EncoderModel, folder / "text_encoder_3", setting),
    )
    vae = opened(AutoencoderKL, BASE / "vae", setting)
    unet = opened(UNet2DConditionModel, BASE / "unet", setting)
    transformer = train_transformer(setting, readers, vae, unet)
    return StableDiffusion3Pipeline(
        transformer,
        make_flow_scheduler(),
        vae,
        readers.first,
        tokenizer,
        readers.second,
        copy.deepcopy(tokenizer),
        readers.t5,
        readers.t5_tokenizer,
    )


DENOISERS = {
    "shapes": unet_base,
    "shapes-b": other_unet_base,
    "shapes-xl": xl_base,
    "shapes-mmdit": transformer_base,
}
