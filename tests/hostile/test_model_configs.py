"""Configurations of models, scorers and tokenizers that name code, kernels, other models or files,
and sizes that lie: refused by name, before anything is made, and without the network."""

from __future__ import annotations

import json
import os

import pytest
from stranger import no_network  # noqa: F401 - a fixture
from untrusted import edit, folder, refused  # noqa: F401 - a fixture

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.configs import check_config, check_sizes, known_keys, shapes_of
from t2i_backdoor_bench.models.families.folders import LAYOUTS
from t2i_backdoor_bench.models.families.stable_diffusion import StableDiffusion
from t2i_backdoor_bench.models.trust import check_model

HUB = "owner/kernel"
# what was asked of the hub, or run, or read, before configurations were read through a list
NAMED = {
    "attn_implementation": HUB,
    "_attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation_internal": HUB,
    "experts_implementation": HUB,
    "auto_map": {"AutoModel": "owner/code--model.Model"},
    "quantization_config": {"quant_method": "mxfp4"},
    "use_kernels": True,
    "kernel_config": {"a": HUB},
    "trust_remote_code": True,
    "base_model_name_or_path": HUB,
    "peft_config": {"base": HUB},
    "custom_generate": HUB,
}


@pytest.fixture
def nothing_is_loaded(monkeypatch) -> None:
    """Fails where the library is asked to make a network."""
    monkeypatch.setattr(
        StableDiffusion, "load", lambda *args: pytest.fail("the library was asked to load it")
    )


@pytest.fixture
def guarded(no_network, nothing_is_loaded) -> None:
    """Nothing is made, and nothing is asked."""


@pytest.mark.parametrize("key", NAMED)
@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_what_names_code_or_another_model_is_refused_by_name(folder, guarded, part, key) -> None:
    edit(folder / part / "config.json", **{key: NAMED[key]})
    refused(folder, str(folder / part / "config.json"), key, "custom code")


def test_also_within_other_values_and_in_the_tokenizer(folder, guarded) -> None:
    config = folder / "text_encoder" / "config.json"
    before = config.read_text()
    edit(config, task_specific_params={"a": [{"attn_implementation": HUB}]})
    refused(folder, "attn_implementation", "custom code")
    config.write_text(before)
    tokenizer = folder / "tokenizer" / "tokenizer_config.json"
    before = tokenizer.read_text()
    for key in ("vocab_file", "merges_file", "tokenizer_file", "fast_tokenizer_files", "auto_map"):
        edit(tokenizer, **{key: "/etc/passwd"})
        refused(folder, key, "another file")
        tokenizer.write_text(before)


def test_keys_that_a_class_does_not_have(folder, guarded) -> None:
    for part, kind in (("unet", "UNet2DConditionModel"), ("text_encoder", "CLIPTextModel")):
        config = folder / part / "config.json"
        before = config.read_text()
        edit(config, loader="x")
        refused(folder, "'loader'", kind)
        config.write_text(before)


@pytest.mark.parametrize("value", [HUB, "../x", "/etc/passwd", "hf-hub:x", "http://evil", "a b"])
def test_values_that_are_no_plain_word(folder, guarded, value) -> None:
    edit(folder / "unet" / "config.json", mid_block_type=value)
    refused(folder, repr(value), "no plain word")
    edit(folder / "unet" / "config.json", mid_block_type="UNetMidBlock2DCrossAttn")
    edit(folder / "scheduler" / "scheduler_config.json", beta_schedule=value)
    refused(folder, repr(value), "no plain word")


def test_what_is_only_said_is_not_read(folder, no_network) -> None:
    """Saved models say where they came from."""
    edit(folder / "unet" / "config.json", _name_or_path="CompVis/stable-diffusion-v1-4")
    edit(folder / "text_encoder" / "config.json", _name_or_path="/home/author/clip")
    edit(
        folder / "tokenizer" / "tokenizer_config.json",
        name_or_path="openai/clip-vit-large-patch14",
        special_tokens_map_file="./special_tokens_map.json",
    )
    check_model(folder)


PUBLISHED = {  # keys of published configurations, from several versions of the libraries
    "UNet2DConditionModel": (
        "_class_name _diffusers_version act_fn attention_head_dim block_out_channels"
        " center_input_sample cross_attention_dim down_block_types downsample_padding"
        " flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps"
        " norm_num_groups out_channels sample_size up_block_types dual_cross_attention"
        " only_cross_attention use_linear_projection upcast_attention addition_embed_type"
        " transformer_layers_per_block"
        " projection_class_embeddings_input_dim addition_time_embed_dim time_cond_proj_dim"
    ),
    "AutoencoderKL": (
        "_class_name _diffusers_version _name_or_path act_fn block_out_channels down_block_types"
        " force_upcast in_channels latent_channels layers_per_block norm_num_groups out_channels"
        " sample_size scaling_factor up_block_types"
    ),
    "CLIPTextModel": (
        "_name_or_path architectures attention_dropout bos_token_id dropout eos_token_id hidden_act"
        " hidden_size initializer_factor initializer_range intermediate_size layer_norm_eps"
        " max_position_embeddings model_type num_attention_heads num_hidden_layers pad_token_id"
        " projection_dim torch_dtype transformers_version vocab_size"
    ),
    "T5EncoderModel": (
        "_name_or_path architectures classifier_dropout d_ff d_kv d_model decoder_start_token_id"
        " dense_act_fn dropout_rate eos_token_id feed_forward_proj initializer_factor"
        " is_encoder_decoder is_gated_act layer_norm_epsilon model_type num_decoder_layers"
        " num_heads num_layers output_past pad_token_id relative_attention_max_distance n_positions"
        " relative_attention_num_buckets tie_word_embeddings torch_dtype transformers_version"
        " use_cache vocab_size task_specific_params"
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_configurations_pass(kind: str) -> None:
    assert set(PUBLISHED[kind].split()) <= known_keys(kind)


def test_every_class_of_a_family_has_its_list() -> None:
    for layout in LAYOUTS.values():
        for part in layout.weights:
            for kind in layout.parts[part][1]:
                assert len(known_keys(kind)) > 10, kind


# ------------------------------------------------------------------------------------------- sizes
LIES = {
    "a billion layers": ("text_encoder", {"num_hidden_layers": 10**9}),
    "two million channels": ("unet", {"block_out_channels": [2_000_000, 2_000_000]}),
    "200,000 blocks": ("vae", {"block_out_channels": [8] * 200_000}),
    "blocks by name": ("unet", {"down_block_types": ["CrossAttnDownBlock2D"] * 200_000}),
    "layers a block": ("unet", {"layers_per_block": 10**6}),
    "layers of layers": ("unet", {"layers_per_block": 90, "transformer_layers_per_block": 90}),
    "an endless vocabulary": ("text_encoder", {"vocab_size": 10**12}),
    "a wide middle": ("text_encoder", {"intermediate_size": 10**9}),
    "heads": ("unet", {"attention_head_dim": 10**9}),
    "a negative side": ("vae", {"latent_channels": -(10**9)}),
    "steps": ("scheduler", {"num_train_timesteps": 10**12}),
    "levels": ("scheduler", {"trained_betas": [0.1] * 200_000}),
}


@pytest.mark.parametrize("lie", LIES)
def test_sizes_that_lie_are_refused_before_anything_is_made(folder, guarded, lie) -> None:
    part, change = LIES[lie]
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    edit(folder / part / name, **change)
    refused(folder, str(folder / part / name), next(iter(change)) if "of" not in lie else "depth")


@pytest.mark.parametrize("length", [2**63, 2**40, 2**24 + 1, 10**7, 0, 3])
def test_headers_that_lie(folder, guarded, length) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    refused(folder, str(file), "no whole safetensors file")


def test_tensors_that_lie(folder, guarded) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for shape, ends in (([2**40], [0, 4]), ([1], [0, 2**40]), ([1], [8, 4]), ([2**62, 4], [0, 0])):
        header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": ends}}
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + b"1234")
        refused(folder, str(file), "no whole safetensors file")


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/extra.safetensors",
        "unet/unknown",
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_pipes_and_folders_where_files_are_expected(folder, guarded, name, kind) -> None:
    """Opening a pipe would wait for ever."""
    if (kind, name) == ("folder", "unet/unknown"):
        return
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    refused(folder, str(path.parent))


def test_json_without_end(folder, guarded) -> None:
    config = folder / "unet" / "config.json"
    for text in ("[" * 10**6, "{" * 10**6, '"' + "a" * 10, "", "[]", "5", "null"):
        config.write_text(text)
        refused(folder, str(config))
    with config.open("wb") as file:
        file.truncate(2**27)
    refused(folder, str(config), "are read")


def test_the_checks_by_themselves(folder) -> None:
    config = folder / "unet" / "config.json"
    settings = json.loads(config.read_text())
    shapes = shapes_of(folder / "unet" / "diffusion_pytorch_model.safetensors")
    check_config(settings, config, ["UNet2DConditionModel"])
    check_sizes(settings, config, shapes)
    with pytest.raises(UserError, match="tensors"):
        check_sizes(settings | {"layers_per_block": len(shapes) + 1}, config, shapes)
