"""Back-translation, by tiny random translation models in the real formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
)

from t2i_backdoor_bench.contract import DefenderView, UserError, defenses
from t2i_backdoor_bench.models.translation import Translator, check_translator, load_translator

WORDS = ["a", "red", "star", "on", "blue", "una", "estrella", "roja", "sobre", "azul"]
SIZES = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "max_position_embeddings": 160,
    "init_std": 1.0,  # or else a random model says the same of all texts
}


def tokenizer(*more: str) -> PreTrainedTokenizerFast:
    vocab = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS, *more])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def marian(folder: Path, seed: int, *more: str) -> Path:
    own = tokenizer(*more)
    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=len(own), decoder_start_token_id=0, forced_eos_token_id=1, **SIZES
    )
    MarianMTModel(config).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def slowly(folder: Path, text: str) -> str:
    """A translation token by token, always the likeliest."""
    model, own = MarianMTModel.from_pretrained(folder).eval(), tokenizer(">>es<<")
    ids, out = own(text, return_tensors="pt").input_ids, [0]
    with torch.no_grad():
        while len(out) < 129 and out[-1] != 1:
            scores = model(input_ids=ids, decoder_input_ids=torch.tensor([out])).logits[0, -1]
            scores[0] = -torch.inf  # Marian models never say <pad>
            out.append(int(scores.argmax()) if len(out) < 128 else 1)
    return own.decode(out, skip_special_tokens=True).strip()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("translators")
    return marian(root / "forward", 3, ">>es<<"), marian(root / "backward", 4)


def test_a_prompt_is_translated_there_and_back(folders, tiny_model) -> None:
    forward, backward = map(str, folders)
    options = {"forward": forward, "backward": backward}
    method = defenses.build("tpd_back_translation", "shapes", options)
    method.check_machine("cpu")
    assert len(set(method.weights)) == 2, "the models are a part of the cell's key"
    prompt = "a red star on blue"
    there = load_translator(forward, torch.device("cpu"))(prompt, "en", "es")
    back = load_translator(backward, torch.device("cpu"))(there, "es", "en")
    purified = method.apply(tiny_model, DefenderView((), []), 0)
    assert purified.rewrite(prompt) == back
    assert len({prompt, there, back}) == 3
    assert tiny_model.rewrite is None
    options["back"] = "false"
    one_way = defenses.build("tpd_back_translation", "shapes", options)
    assert one_way.apply(tiny_model, DefenderView((), []), 0).rewrite(prompt) == there


def test_marian_is_told_the_language_where_it_knows_several(folders) -> None:
    there = load_translator(str(folders[0]), torch.device("cpu"))("a red star", "en", "es")
    assert there == slowly(folders[0], ">>es<< a red star")
    assert there != slowly(folders[0], "a red star")


def test_m2m_begins_with_the_language() -> None:
    own = tokenizer("__es__")

    class Named:
        """As M2M100's tokenizer, whose real one needs a model of word pieces."""

        src_lang = ""

        def __call__(self, text: str, **how):
            assert self.src_lang == "en"
            return own(text, **how)

        def get_lang_id(self, language: str) -> int:
            return own.get_vocab()[f"__{language}__"]

        def decode(self, ids, skip_special_tokens: bool) -> str:
            return own.decode(ids, skip_special_tokens=skip_special_tokens)

    torch.manual_seed(0)
    config = M2M100Config(vocab_size=len(own), decoder_start_token_id=1, bos_token_id=0, **SIZES)
    model = M2M100ForConditionalGeneration(config).eval()
    said = Translator(model, Named(), "m2m_100")("a red star", "en", "es")
    assert said.split(" ")[0] == "__es__"


def test_without_a_model_nothing_begins(tmp_path, folders) -> None:
    assert "tpd_back_translation" not in defenses.groups["all"]
    with pytest.raises(UserError, match=r"tpd_back_translation\.forward is ''"):
        defenses.build("tpd_back_translation", "shapes").check_machine("cpu")
    options = {"forward": str(folders[0]), "backward": str(tmp_path / "none")}
    with pytest.raises(UserError, match=r"tpd_back_translation\.backward is .*local folder"):
        defenses.build("tpd_back_translation", "shapes", options).check_machine("cpu")
    options["back"] = "false"
    defenses.build("tpd_back_translation", "shapes", options).check_machine("cpu")


@pytest.mark.parametrize(
    ("config", "weights", "said"),
    [
        ({"model_type": "bart"}, "model.safetensors", "of type 'bart'"),
        ({"model_type": "marian"}, "pytorch_model.bin", "pickles"),
        ({"model_type": "marian", "auto_map": {"x": "y"}}, "model.safetensors", "custom code"),
    ],
)
def test_other_models_are_refused(tmp_path, config: dict, weights: str, said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / weights).write_bytes(b"")
    with pytest.raises(UserError, match=said):
        check_translator(str(tmp_path), "forward")
