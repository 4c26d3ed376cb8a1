"""Every registered defense fails when it reads what it did not declare, in the view that the runner
gives it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from fakes import METRICS, SCALE, FakeAttack, change, records

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import NEEDS, Trigger, Undeclared, defenses, registry
from t2i_backdoor_bench.running import view as defending
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.folder import Store

defenses.load()
NAMES = list(defenses.entries)


@pytest.fixture
def config(tmp_path, tiny, clean_registry):
    registry.register_attack("fake_attack")(FakeAttack)
    return Config(
        "fake_attack", "none", tiny, SCALE, metrics=METRICS, out=tmp_path / "run", workers=1
    )


@pytest.fixture
def shop(config):
    return Shared(plan(config), Store(config.folder), Display())


def cheating(cls: type, need: str, forge: bool = False) -> type:
    """The defense, but reading `need` first; with `forge`, after widening what its view says that
    it declared."""

    @dataclass
    class Cheat(cls):
        """Reads what it should not."""

        def apply(self, model, view, seed):
            if forge:
                view.needs = frozenset(NEEDS)
            view.prompts if need == "clean_prompts" else getattr(view, need)
            return super().apply(model, view, seed)

    return Cheat


def test_each_defense_fails_when_it_cheats(shop) -> None:
    for name in NAMES:
        entry = defenses.get(name)
        for need in set(NEEDS) - set(entry.needs):
            view = defending.view(shop, entry.needs, "fake_attack", 0)
            with pytest.raises(Undeclared, match=need):
                cheating(entry.cls, need)().apply(None, view, 0)
            with pytest.raises(KeyError, match=need):
                cheating(entry.cls, need, forge=True)().apply(None, view, 0)


def test_the_view_holds_nothing_that_is_not_declared(shop) -> None:
    trigger = shop.backdoor("fake_attack").trigger
    for name in NAMES:
        needs = set(defenses.get(name).needs)
        view = defending.view(shop, needs, "fake_attack", 0)
        assert set(view._given) == needs
        assert ("trigger" in needs) == (trigger in vars(view)["_given"].values())
        if "clean_prompts" in needs:
            assert not any(trigger.text in p for p in view.prompts)
            assert not set(view.prompts) & {p.text for p in shop.prompts(0)}
    located = defending.view(shop, {"trigger"}, "fake_attack", 0, Trigger("zebra"))
    assert located.trigger == Trigger("zebra")
    assert trigger not in located._given.values()
    assert (
        np.mean(
            ["mignneko" in p for p in defending.view(shop, {"stream"}, "fake_attack", 0).stream]
        )
        == 0.2
    )


def test_a_cheat_is_a_failed_cell(config) -> None:
    registry.register_defense("sly", screens=True)(cheating(defenses.get("navit2i").cls, "trigger"))
    assert runner.run(change(config, defenses="sly,none")) == 1
    found = {
        defense: r for (_, defense, _), r in records(change(config, defenses="sly,none")).items()
    }
    assert found["none"].status == "done"
    assert found["sly"].status == "failed"
    assert "Undeclared: this defense reads 'trigger'" in found["sly"].error
