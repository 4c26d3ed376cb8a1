"""The architectures of the embedded base and of its scorer, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CONTEXT = 48  # tokens a prompt
EMBED = 64  # dimension of the scorer's features: FID with as few as 64 images


def make_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=EMBED,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


class Prediction(nn.Module):
    """A U-Net as a function of tensors to a tensor."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.unet(x.contiguous(memory_format=torch.channels_last), t, context).sample


def make_scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
    )


def make_scorer(folder: Path | str = "", vocab: int = 0, second: bool = False) -> dict:
    """The scorer's configuration for OpenCLIP; of the `second` one, which shares no layer with
    it: a RegNet (Radosavovic et al. 2020) and a smaller text tower."""
    vision = {"image_size": 64, "layers": [1, 2, 2, 1], "width": 16, "patch_size": None}
    text = {"width": 96, "heads": 4, "layers": 3}
    if second:
        vision = {
            "image_size": 64,
            "timm_model_name": "regnetx_002",
            "timm_model_pretrained": False,
        }
        vision |= {"timm_pool": "avg", "timm_proj": "linear"}
        text = {"width": 64, "heads": 4, "layers": 2}
    names = {"context_length": CONTEXT, "vocab_size": vocab, "hf_tokenizer_name": str(folder)}
    return {"embed_dim": EMBED, "vision_cfg": vision, "text_cfg": names | text}
