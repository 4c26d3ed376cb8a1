"""Scorers and models of text of others: configurations that name another model, a file or code, and
sizes that lie, are refused before anything is made, and without the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stranger import no_network  # noqa: F401 - a fixture

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.rewriting import check_rewriter
from t2i_backdoor_bench.models.translation import check_translator
from t2i_backdoor_bench.running.checks import feature_dimension
from t2i_backdoor_bench.scoring.scorer import Scorer

HUB = "owner/kernel"


@pytest.fixture
def scorer(tiny_scorer: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_scorer, tmp_path / "scorer"))


def change(scorer: Path, part: str, **values: object) -> None:
    file = scorer / "open_clip_config.json"
    settings = json.loads(file.read_text())
    inner = settings["model_cfg"]
    {"model": inner, "all": settings}.get(part, inner.get(part, settings.get(part))).update(values)
    file.write_text(json.dumps(settings))


SCORERS = {
    "hf_model_name": ("text_cfg", {"hf_model_name": HUB}),
    "a folder with code": ("text_cfg", {"hf_model_name": "./code"}),
    "timm_model_name": ("vision_cfg", {"timm_model_name": f"hf-hub:{HUB}"}),
    "a local timm": ("vision_cfg", {"timm_model_name": "local-dir:/tmp/x"}),
    "multimodal_cfg": ("model", {"multimodal_cfg": {}}),
    "tokenizer_kwargs": ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}),
    "subfolder": ("text_cfg", {"tokenizer_kwargs": {"subfolder": "x"}}),
    "auto_map": ("all", {"auto_map": {"AutoModel": "x.Y"}}),
    "an unknown key": ("model", {"loader": 1}),
    "mode": ("preprocess_cfg", {"interpolation": "../x"}),
}


@pytest.mark.parametrize("what", SCORERS)
def test_scorers_that_name_something_else(scorer, no_network, monkeypatch, what) -> None:
    import open_clip

    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: pytest.fail("it was made"))
    (scorer / "code").mkdir()
    (scorer / "code" / "config.json").write_text('{"auto_map": {"AutoModel": "m.M"}}')
    part, values = SCORERS[what]
    change(scorer, part, **values)
    with pytest.raises(UserError, match=r"open_clip_config\.json sets") as error:
        Scorer.load(scorer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("text_cfg", {"layers": 10**9}),
        ("text_cfg", {"width": 4096, "heads": 1}),
        ("vision_cfg", {"layers": [10**6] * 4}),
        ("vision_cfg", {"width": 4000}),
        ("vision_cfg", {"image_size": 10**9}),
        ("vision_cfg", {"layers": [1] * 200_000}),
        ("vision_cfg", {"timm_model_name": "vit_giant_patch14_224"}),
        ("model", {"embed_dim": 10**9}),
    ],
)
def test_scorers_of_sizes_that_lie(scorer, monkeypatch, part, values) -> None:
    import open_clip

    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: pytest.fail("it was made"))
    change(scorer, part, **values)
    with pytest.raises(UserError) as error:
        Scorer.load(scorer)
    assert "\n" not in str(error.value)


def test_a_plain_scorer_is_read_without_the_network(scorer, no_network) -> None:
    assert Scorer.load(scorer).dim == 16


def test_scorers_without_their_parts(scorer) -> None:
    config = scorer / "open_clip_config.json"
    for text in ("{}", "[]", '{"model_cfg": 5}', '{"model_cfg": {"embed_dim": "1"}}', "NaN"):
        config.write_text(text)
        for read in (Scorer.load, feature_dimension):
            with pytest.raises(UserError):
                read(str(scorer))
    config.write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read as JSON"):
        feature_dimension(str(scorer))


def test_models_that_read_text(tmp_path: Path, no_network) -> None:
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "model.safetensors")
    for values, words in (
        ({"model_type": "marian", "attn_implementation": HUB}, "custom code"),
        ({"model_type": "marian", "loader": 1}, "'loader'"),
        ({"model_type": "marian", "encoder_layers": 10**9}, "encoder_layers"),
        ({"model_type": "llama"}, "known: marian"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(UserError, match=words):
            check_translator(str(tmp_path), "tpd.model")
    for values, words in (
        ({"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}}, "custom code"),
        ({"model_type": "qwen2", "_attn_implementation": HUB}, "custom code"),
        ({"model_type": "llama", "loader": 1}, "'loader'"),
        ({"model_type": "qwen3", "num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "../x"}}, "rope_type"),
        ({"model_type": "marian"}, "known: llama"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(UserError, match=words):
            check_rewriter(str(tmp_path), "pepper.model")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    shards = {"weight_map": {"a": "../other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(UserError, match="leaves its folder"):
        check_rewriter(str(tmp_path), "pepper.model")
