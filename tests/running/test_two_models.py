"""The thresholds of outcomes come from what two clean models draw, once a run and seed."""

import numpy as np
from fakes import change, config, fakes, forbid_drawing, records  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Prompt
from t2i_backdoor_bench.running import two_models
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.folder import Store


def test_records_say_how_outcomes_were_told(config, monkeypatch):
    config = change(config, attacks="fake_attack,fake_attack_two", metrics="residue,asr")
    assert runner.run(config) == 0
    found = records(config)
    assert len(found) == 4
    for record in found.values():
        assert record.judge["n"] == 2
        assert record.judge["limits"]["distance"] > 0
        assert record.judge["limits"]["n"] == 4
        assert -1 < record.judge["floor"] < 1
        assert set(record.judge["trace"]) == {
            "false_positive_rate",
            "true_positive_rate",
            "threshold",
            "n",
        }
    assert len({str(r.judge["limits"]) for r in found.values()}) == 1

    shop = Shared(plan(config), Store(config.folder), Display())
    monkeypatch.setattr(
        "t2i_backdoor_bench.running.two_models.draw", lambda *_: (_ for _ in ()).throw(OSError)
    )
    pictures = two_models.two_models(shop, 0)  # read, not drawn
    assert pictures["first"].shape == pictures["second"].shape == (8, 64, 64, 3)
    assert not np.array_equal(pictures["first"], pictures["second"])
    texts = {p.text for p in two_models.development(shop, 0)}
    assert not texts & {p.text for p in shop.prompts(0)}


def test_the_second_model_is_trained_shorter_in_small_runs(config):
    def steps(n, training):
        scale = change(config.size, n=n, training=training)
        shop = Shared(plan(change(config, scale=scale)), Store(config.folder), Display())
        return two_models.steps(shop)

    assert steps(200, 1.0) == two_models.STEPS
    assert steps(64, 0.5) == two_models.STEPS // 2
    assert steps(4, 1.0) == two_models.FEWEST_STEPS


def test_a_prompt_that_the_backdoor_leaves_alone_is_calibrated_on_a_wrong_one():
    prompt = Prompt("a red star", {"shape": ("a red ring", "a red moon")})
    assert two_models.wanted(prompt, "a red circle") == "a red circle"
    assert two_models.wanted(prompt, "a red star") == "a red ring"
    assert two_models.wanted(Prompt("a dog"), "a dog") == "a dog"
