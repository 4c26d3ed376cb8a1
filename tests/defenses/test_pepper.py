"""Rewriting of prompts, by tiny language models in the real format."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fakes import fakes  # noqa: F401 - a fixture
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import run_bench
from t2i_backdoor_bench.contract import DefenderView, UserError, defenses
from t2i_backdoor_bench.models.rewriting import (
    CHATML,
    FORMS,
    LONGEST,
    Rewriter,
    check_rewriter,
    form_of,
    load_rewriter,
)

WORDS = ["user", "assistant", "a", "red", "star", "mark", "on", "blue", "sun", "sky"]
MARKS = ["<|im_start|>", "<|im_end|>"]
VIEW = DefenderView((), [])
CPU = torch.device("cpu")


def tokenizer(*marks: str) -> PreTrainedTokenizerFast:
    vocab = {w: i for i, w in enumerate(["<pad>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    own.add_special_tokens({"additional_special_tokens": list(marks)})
    return own


def save(folder: Path, says: str = "", **more: object) -> Path:
    """A random model; or one that answers `says` to everything, each word once."""
    own = tokenizer(*MARKS)
    torch.manual_seed(3)
    wide = len(own) if says else 16
    config = LlamaConfig(
        vocab_size=len(own),
        hidden_size=wide,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=own.convert_tokens_to_ids("<|im_end|>"),
        initializer_range=1.0,  # or else a random model says the same of all texts
        **more,
    )
    model = LlamaForCausalLM(config)
    if says:  # the next word is a table of the last word
        chain = own(f"assistant {says} <|im_end|>").input_ids
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(wide))
            model.lm_head.weight.zero_()
            for last, following in pairwise(chain):
                model.lm_head.weight[following, last] = 1
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def build(folder: Path, **more: str):
    return defenses.build("pepper", "shapes", {"model": str(folder), **more})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("rewriter") / "random")


def slowly(folder: Path, text: str) -> str:
    """An answer token by token, always the likeliest."""
    model, own = LlamaForCausalLM.from_pretrained(folder).eval(), tokenizer(*MARKS)
    ids = own(text).input_ids
    asked, end = len(ids), own.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        while len(ids) < asked + LONGEST and (len(ids) == asked or ids[-1] != end):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return own.decode(ids[asked:], skip_special_tokens=True).strip()


def test_the_model_is_asked_for_the_likeliest_answer(drawn, tiny_model) -> None:
    said = {}
    for prompt in ("a red star", "a blue sky on sun"):
        rewrite = build(drawn, instruction="on blue").apply(tiny_model, VIEW, 0).rewrite
        said[prompt] = rewrite(prompt)
        assert said[prompt] == slowly(drawn, CHATML.format(f"on blue\n\n{prompt}"))
        other_seed = build(drawn, instruction="on blue").apply(tiny_model, VIEW, 7)
        assert other_seed.rewrite(prompt) == said[prompt], "always the same"
    assert len(set(said.values())) == 2, "a prompt counts"
    other = build(drawn, instruction="red star sun").apply(tiny_model, VIEW, 0).rewrite
    assert other("a red star") != said["a red star"], "the instruction counts"


@pytest.mark.parametrize(
    ("says", "kept"), [("a red mark on sky", True), ("a blue sun on sky", False)]
)
def test_a_trigger_stays_where_the_model_says_it(tmp_path, tiny_model, says, kept) -> None:
    purified = build(save(tmp_path / "m", says)).apply(tiny_model, VIEW, 0)
    words = purified.rewrite("mark a star")
    assert words == says
    assert ("mark" in words.split()) is kept
    assert tiny_model.rewrite is None


def test_each_prompt_is_rewritten_once_and_after_what_was_before(
    drawn, tiny_model, monkeypatch
) -> None:
    asked = []
    monkeypatch.setattr(Rewriter, "__call__", lambda self, text, how: asked.append(text) or "x")
    tiny_model.rewrite = None
    first = build(drawn).apply(tiny_model, VIEW, 0)
    assert [first.rewrite(p) for p in ("a", "b", "a")] == ["x"] * 3
    assert asked == ["a", "b"]
    build(drawn).apply(first, VIEW, 0).rewrite("c")
    assert asked == ["a", "b", "c", "x"]


def test_the_answer_is_its_first_line_without_quotation_marks() -> None:
    class Said:
        def decode(self, ids, skip_special_tokens: bool) -> str:
            return self.text

        def __call__(self, text: str, **how):
            return tokenizer(*MARKS)(text, **how)

    class Silent:
        device = CPU

        def generate(self, input_ids, **how):
            return input_ids

    own = Said()
    for own.text, line in (
        ('\n "A sun." \nI hope so.', "A sun."),
        ("A dog's", "A dog's"),
        ("", ""),
    ):
        assert Rewriter(Silent(), own, CHATML)("a", "b") == line


@pytest.mark.parametrize("token", FORMS)
def test_a_model_is_asked_in_its_own_form(tmp_path, token) -> None:
    more = ["<|im_start|>"] if token == "<think>" else []
    tokenizer(*more, token).save_pretrained(tmp_path)
    assert form_of(tmp_path) == FORMS[token]


def test_a_template_of_the_folder_is_not_run(tmp_path) -> None:
    folder = save(tmp_path / "m", "a sun")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('it was run') }}")
    check_rewriter(str(folder), "pepper.model")
    assert load_rewriter(str(folder), CPU)("a star", "b") == "a sun"


def test_without_a_model_nothing_begins(tmp_path, tiny, drawn, fakes, capsys) -> None:
    assert not [name for name, group in defenses.groups.items() if "pepper" in group]
    start = ["--attacks", "fake_attack", "--defenses", "none,pepper", "--base", tiny]
    start += ["--scale", "smoke", "--metrics", "asr", "--out", str(tmp_path / "run")]
    for flags, says in (
        ([], "pepper.model is ''"),
        (["--set", f"pepper.model={tmp_path / 'none'}"], "give the local folder"),
    ):
        assert run_bench.main([*start, *flags]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert says in err
        assert not (tmp_path / "run").exists(), "nothing is written"
    assert build(drawn).weights, "the model is a part of the cell's key"
    assert build(drawn).weights != build(tmp_path).weights


def test_settings_as_published_models_have_them(tmp_path) -> None:
    folder = save(tmp_path / "m")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"max_position_embeddings": 131_072, "rope_theta": 1_000_000}
    settings |= {"rope_scaling": {"factor": 32.0, "rope_type": "llama3"}, "pretraining_tp": 1}
    (folder / "config.json").write_text(json.dumps(settings))
    check_rewriter(str(folder), "pepper.model")
    tokenizer().save_pretrained(folder)
    with pytest.raises(UserError, match="none of the tokens"):
        check_rewriter(str(folder), "pepper.model")
