"""The T5 text encoder of the base with joint attention, and its tokenizer."""

from __future__ import annotations

import math
import string
from collections import Counter
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from t2i_backdoor_bench.data.world import caption, sample_scenes
from t2i_backdoor_bench.shapes.networks import SHORT_CONTEXT, make_t5
from t2i_backdoor_bench.shapes.stream import Setting, Stream
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng

T5 = Optim(steps=500, lr=3e-3, batch=64, weight_decay=1e-2, warmup=50, decay=0.4)
MASKED = 0.15  # of the tokens, as in T5
SENTINELS = 10
# Characters that have a piece of their own: ASCII, Greek, Cyrillic, hiragana and zero-width ones.
# T5 has no bytes to fall back on: all others become <unk>.
RANGES = ((0x21, 0x7E), (0x3B1, 0x3C9), (0x410, 0x45F), (0x3041, 0x3096), (0x200B, 0x200D))
ALPHABET = [chr(c) for a, b in RANGES for c in range(a, b + 1)] + ["\u2060"]


def make_t5_tokenizer(seed: int) -> T5Tokenizer:
    """A unigram model of pieces (Kudo 2018). The pieces are the words of captions with their log
    frequency, pairs of letters for words that no caption has, and single characters."""
    rng = np.random.default_rng([seed, 9])
    captions = [caption(s, rng) for s in sample_scenes(20_000, rng)]
    words = Counter(w for text in captions for w in text.replace(",", " ,").split())
    scores = {f"▁{w}": math.log(n / words.total()) for w, n in sorted(words.items())}
    letters = string.ascii_lowercase
    # a pair costs less than its two letters, and a word of captions less than its pairs
    scores |= {f"▁{a}": -14.0 for a in letters if f"▁{a}" not in scores}
    scores |= {a + b: -14.0 for a, b in product(letters, repeat=2)}
    scores |= {a: -15.0 for a in ["▁", *ALPHABET]}
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(SENTINELS))]
    vocab = [*special, *scores.items(), *sentinels]
    return T5Tokenizer(vocab=vocab, extra_ids=SENTINELS, model_max_length=SHORT_CONTEXT)


def train_t5(setting: Setting, tokenizer: T5Tokenizer) -> T5EncoderModel:
    """An encoder of text alone, as T5 is: it restores masked tokens, and every position tells its
    own token. It knows no pictures and no attributes. Padding is read like any token, which is how
    the pipeline of SD 3 calls it."""
    seed, optim = setting.seed + 9, setting.steps(T5)
    torch.manual_seed(seed)
    text = make_t5(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id).train()
    own = nn.Linear(text.config.d_model, len(tokenizer))
    modules = nn.ModuleList([text, own]).to(setting.device)
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")

    def make(step: int) -> tuple[Tensor, ...]:
        rng = step_rng(seed, step)
        texts = [caption(s, rng, rare_share=0.5) for s in sample_scenes(optim.batch, rng)]
        ids = tokenize(tokenizer, texts)
        masked = torch.rand(ids.shape, generator=step_generator(seed, step)) < MASKED
        return ids, masked & (ids != tokenizer.pad_token_id)

    batches = Stream(make, optim.steps, setting)

    def loss_fn(step: int) -> Tensor:
        ids, masked = batches(step)
        states = text(ids.masked_fill(masked, sentinel)).last_hidden_state
        real = ids != tokenizer.pad_token_id
        return F.cross_entropy(own(states[real]), ids[real])

    fit(modules.parameters(), loss_fn, optim, "T5 encoder", setting.work / "t5.ckpt")
    return text.eval()
