"""Whether a picture shows what its prompt asks for, on an encoder with known embeddings."""

import numpy as np
import pytest
from judging import FakeEncoder, prompts, scenes  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import Prompt
from t2i_backdoor_bench.scoring.faithfulness import faithful


def test_faithful_rejects_one_wrong_thing_at_a_time(prompts):
    encoder = FakeEncoder()
    some = prompts[:30]
    assert faithful(encoder.draw([p.text for p in some]), some, encoder).all()
    for attribute in ("shape", "color", "background"):
        assert not faithful(
            encoder.draw([p.wrong[attribute][3] for p in some]), some, encoder
        ).any()


def test_faithful_rejects_images_of_nothing(prompts):
    encoder = FakeEncoder()
    many = (prompts * 2)[:800]
    assert faithful(encoder.draw([None] * len(many)), many, encoder).mean() < 0.1


def test_faithful_matches_a_loop_and_encodes_each_text_once(prompts):
    encoder = FakeEncoder()
    some = prompts[:25] + [
        Prompt("x", {"shape": ("y",)}),
        Prompt("x", {"caption": ("y", "z", "x")}),
    ]
    images = encoder.draw([None] * 20 + [p.text for p in some[20:]])
    found = faithful(images, some, encoder)
    assert len(encoder.calls[0]) == len(set(encoder.calls[0]))
    assert len(encoder.calls) == 1
    for vector, prompt, verdict in zip(encoder.encode_images(images), some, found, strict=True):

        def cosine(text, vector=vector):
            other = encoder.vector(text)
            return vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)

        wins = [
            all(cosine(prompt.text) > cosine(t) for t in wrong if t != prompt.text)
            for wrong in prompt.wrong.values()
        ]
        assert verdict == all(wins)


def test_faithful_needs_alternatives():
    encoder = FakeEncoder()
    with pytest.raises(ValueError, match="no wrong alternatives"):
        faithful(encoder.draw(["a"]), [Prompt("a")], encoder)
