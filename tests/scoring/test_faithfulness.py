"""Whether a picture shows what its prompt asks for, on an encoder with known embeddings."""

import numpy as np
import pytest
from judging import FakeEncoder, prompts, scenes  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import Prompt
from t2i_backdoor_bench.scoring.faithfulness import NO_FLOOR, faithful, likeness_floor


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


class Plane:
    """Pictures and texts as angles: the first pixel of a picture, and the last word of a text, in
    degrees."""

    name = "plane"

    def encode_images(self, images):
        return self.codes(images[:, 0, 0, 0])

    def encode_texts(self, texts):
        return self.codes([float(t.split()[-1]) for t in texts])

    def codes(self, degrees):
        angles = np.deg2rad(np.asarray(degrees, float))
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def at(*degrees):
    return np.array(degrees, np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)


def test_the_least_wrong_description_is_not_enough():
    """A picture at 100 degrees is nearer to the prompt, at 0, than to the wrong one, at 220."""
    prompt = Prompt("0", {"shape": ("220",)})
    images, floor = at(0, 29, 31, 100, 130), float(np.cos(np.deg2rad(30)))
    assert faithful(images, [prompt] * 5, Plane()).tolist() == [True] * 4 + [False]
    with_floor = faithful(images, [prompt] * 5, Plane(), floor)
    assert with_floor.tolist() == [True, True, False, False, False]


def test_the_floor_is_the_first_percentile_of_clean_pictures_that_are_as_asked():
    prompt = Prompt("0", {"shape": ("180",)})
    degrees = [*range(80), 120, 150]  # the last two are failures of the model
    found = likeness_floor(at(*degrees), [prompt] * 82, Plane())
    expected = np.percentile(np.cos(np.deg2rad(range(80))), 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert likeness_floor(at(120, 150), [prompt] * 2, Plane()) == NO_FLOOR
    assert likeness_floor(at(1, 2), [prompt, Prompt("0")], Plane()) == NO_FLOOR
