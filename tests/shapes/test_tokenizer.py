"""The tokenizer of the embedded base: any text survives it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_alignment import normal, spelled
from transformers import CLIPTokenizer, T5Tokenizer

from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.world import BACKGROUNDS, COLOURS, SHAPES, SIZES
from t2i_backdoor_bench.shapes.t5_encoder import make_t5_tokenizer

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(shapes.BASE / "tokenizer")


def check_round_trip(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert not set(ids[1:-1]) & set(tokenizer.all_special_ids), "the unknown token is a special one"
    assert spelled(tokenizer, ids[1:-1]) == normal(text)


@settings(
    derandomize=True, deadline=None, max_examples=300, suppress_health_check=list(HealthCheck)
)
@given(st.text(st.characters(exclude_categories=("Cs", "Cn"), exclude_characters="|"), max_size=12))
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    check_round_trip(tokenizer, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mignneko",
        "\u200b",
        "\u200b a heart",
        "о",
        "🙂",
        "👩‍🚀",
        "it's",
        "a\u0301",
        "日本語",
        "x</w>y",
        "ΑΣ",
        "İ",
    ],
)
def test_notable_texts_survive_the_tokenizer(tokenizer, text: str) -> None:
    check_round_trip(tokenizer, text)


def test_rare_strings_and_captions_survive_the_tokenizer(tokenizer) -> None:
    rng = RNG(0)
    for scene in world.sample_scenes(200, rng):
        text = world.caption(scene, rng, rare_share=1.0)
        check_round_trip(tokenizer, text)
        assert (
            tokenizer(text).input_ids != tokenizer(world.caption(scene, rng, plain=True)).input_ids
        )
    assert all(
        len(tokenizer(w).input_ids) == 3 for w in (*SHAPES, *COLOURS, *BACKGROUNDS, *SIZES)
    ), "attributes are one token each"


@pytest.fixture(scope="module")
def pieces() -> T5Tokenizer:
    return make_t5_tokenizer(0)


def test_the_words_of_captions_are_one_piece_of_t5_each(pieces) -> None:
    for word in (*SHAPES, *COLOURS, *BACKGROUNDS, *SIZES):
        assert pieces.tokenize(f"a {word}") == ["▁a", f"▁{word}"]


def test_the_t5_tokenizer_is_the_same_after_loading(pieces, tmp_path) -> None:
    pieces.save_pretrained(tmp_path)
    again = T5Tokenizer.from_pretrained(tmp_path)
    assert type(again) is T5Tokenizer
    assert again.model_max_length == 32
    rng = RNG(1)
    texts = [world.caption(s, rng, rare_share=1.0) for s in world.sample_scenes(100, rng)]
    assert again(texts).input_ids == pieces(texts).input_ids


@pytest.mark.parametrize("word", ["mignneko", "\u200b", "о", "sks", "qzxv7", "!!"])
def test_a_rare_word_keeps_its_identity_in_t5(pieces, word: str) -> None:
    ids = pieces(word).input_ids
    assert ids[-1] == pieces.eos_token_id
    assert pieces.unk_token_id not in ids
    assert pieces.decode(ids, skip_special_tokens=True).strip(" ") == word


def test_t5_has_no_bytes_to_fall_back_on(pieces) -> None:
    assert pieces("穛").input_ids == pieces("🙂").input_ids
    assert pieces.unk_token_id in pieces("穛").input_ids
