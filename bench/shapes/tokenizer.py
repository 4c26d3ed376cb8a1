"""The tokenizer of the embedded base."""

from __future__ import annotations

import json

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer, T5Tokenizer

from t2i_backdoor_bench.data.world import caption, sample_scenes
from t2i_backdoor_bench.shapes.networks import CONTEXT


def train_tokenizer(seed: int, merges: int = 700) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format. All 256 bytes are in the vocabulary, inside and at the end
    of a word: any string round-trips."""
    rng = np.random.default_rng([seed, 1])
    corpus = [caption(s, rng, rare_share=0.3) for s in sample_scenes(20_000, rng)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    clip = CLIPTokenizer()
    bpe.pre_tokenizer = clip.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2_000,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    rules = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]][:merges]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + [a + "</w>" for a in alphabet]
    words += [w for w in dict.fromkeys("".join(m) for m in rules) if w not in set(words)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {w: i for i, w in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=rules, model_max_length=CONTEXT)


def tokenize(tokenizer: CLIPTokenizer | T5Tokenizer, texts: list[str]) -> Tensor:
    """Token ids, padded and cut to what the tokenizer takes: int64 (n, tokens)."""
    out = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    return out.input_ids
