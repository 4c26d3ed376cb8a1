"""The architectures of the embedded base and of its scorer, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

CONTEXT = 48  # tokens a prompt
SHORT_CONTEXT = 32  # of each encoder in joint attention, where every token costs in every block
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


def make_second_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            projection_dim=EMBED,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def make_t5(words: int, pad: int, end: int) -> T5EncoderModel:
    """As wide as the states of the two CLIP encoders side by side."""
    return T5EncoderModel(
        T5Config(
            vocab_size=words,
            d_model=192,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=pad,
            eos_token_id=end,
        )
    )


def make_transformer() -> SD3Transformer2DModel:
    """A token a latent pixel. Text states are 192 wide, the pooled ones 128 and 64. Each block
    starts as the identity (adaLN-zero, Peebles and Xie 2023)."""
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=192,
        caption_projection_dim=128,
        pooled_projection_dim=192,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear")):
                nn.init.zeros_(module.weight)
    nn.init.zeros_(transformer.proj_out.weight)
    return transformer


def with_projection(text: CLIPTextModel) -> CLIPTextModelWithProjection:
    """The same encoder, whose pooled text is projected by the identity."""
    width = text.config.hidden_size
    config = CLIPTextConfig.from_dict(text.config.to_dict() | {"projection_dim": width})
    projected = CLIPTextModelWithProjection(config).to(text.dtype)
    with torch.no_grad():
        projected.text_projection.weight.copy_(torch.eye(width))
    projected.text_model.load_state_dict(text.state_dict())
    return projected


def make_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


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


def make_xl_unet() -> UNet2DConditionModel:
    """The states of both encoders are 128 and 64 wide; six sizes are 32 numbers each."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(48, 112),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=192,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=EMBED + 6 * 32,
    )


class Prediction(nn.Module):
    """A U-Net as a function of tensors to a tensor."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.unet(x.contiguous(memory_format=torch.channels_last), t, context).sample


class PooledPrediction(Prediction):
    """The same of SDXL's U-Net, which is told pooled texts (n, dim) and sizes, too: always those of
    a whole picture (its height and width, the corner of the crop, the size wanted)."""

    def forward(self, x: Tensor, t: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        sizes = pooled.new_tensor([64.0, 64, 0, 0, 64, 64]).expand(len(x), 6)
        told = {"text_embeds": pooled, "time_ids": sizes}
        x = x.contiguous(memory_format=torch.channels_last)
        return self.unet(x, t, context, added_cond_kwargs=told).sample


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
