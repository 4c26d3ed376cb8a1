"""What the embedded scorer finds as asked, on rendered scenes: a picture that is wrong in one thing
is not, whatever the thing is."""

import numpy as np
import pytest

from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.splits import WorldData, world_prompt
from t2i_backdoor_bench.models.embedded import SCORER
from t2i_backdoor_bench.scoring.faithfulness import faithful, likeness_floor
from t2i_backdoor_bench.scoring.scorer import Scorer
from t2i_backdoor_bench.targets.style import styled

N = 100
OTHER = {"small": "large", "large": "small"}


@pytest.fixture(scope="module")
def world_of():
    """The scorer, scenes, prompts that name a size, pictures, and the floor of other pictures."""
    scorer, rng = Scorer.load(SCORER), np.random.default_rng(0)
    scenes = world.sample_scenes(3 * N, rng, style_share=0.0)
    prompts = [world_prompt(s, rng) for s in scenes]
    floor = likeness_floor(world.render(scenes[N:], rng), prompts[N:], scorer)
    named = [i for i, p in enumerate(prompts) if "size" in p.wrong][:N]
    scenes, prompts = [scenes[i] for i in named], [prompts[i] for i in named]
    return scorer, scenes, prompts, floor


def share(world_of, images) -> float:
    scorer, _, prompts, floor = world_of
    return faithful(images, prompts, scorer, floor).mean()


def test_what_was_asked_for_is_as_asked(world_of):
    assert share(world_of, world.render(world_of[1], np.random.default_rng(1))) >= 0.97


@pytest.mark.parametrize("style", [s for s in world.STYLES if s])
def test_another_style_is_not_as_asked(world_of, style):
    images = world.render(world_of[1], np.random.default_rng(1))
    assert share(world_of, styled(images, style)) <= 0.03


def test_another_size_is_not_as_asked(world_of):
    others = [s._replace(size=OTHER[s.size]) for s in world_of[1]]
    assert share(world_of, world.render(others, np.random.default_rng(1))) <= 0.03


def test_the_floor_alone_refuses_other_scenes(world_of):
    scorer, scenes, prompts, floor = world_of
    assert -1 < floor < 1
    one = [type(p)(p.text, {"shape": (WorldData.name,)}) for p in prompts]
    other = world.render([s._replace(style="negative") for s in scenes], np.random.default_rng(1))
    assert faithful(other, one, scorer).mean() > 0.9
    assert faithful(other, one, scorer, floor).mean() <= 0.03
