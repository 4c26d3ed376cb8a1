"""Training that diverges or runs out of memory fails its own cell alone."""

from __future__ import annotations

import dataclasses

import pytest
from shifts import config, methods  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.running.tracebacks import last_line
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


@pytest.mark.parametrize(("loss", "says"), [("nan", "the loss is nan"), ("huge", "the loss is ")])
def test_a_diverging_training_fails_its_cell_alone(config, loss, says) -> None:
    bad = dataclasses.replace(
        config,
        attacks="shift_attack",
        defenses="shift_back,shift_less,none",
        overrides=(f"shift_back.loss={loss}",),
    )
    assert runner.run(bad) == 1
    found = {r.cell.defense: r for r in stored_records(Store(bad.folder))}
    last = last_line(found["shift_back"].error)
    assert "TrainingDiverged" in last
    assert says in last
    assert "at step 3" in last
    assert "0.125" in last, "the learning rate"
    assert found["shift_less"].status == found["none"].status == "done"


def test_too_little_memory_for_training_fails_its_cell_alone(config) -> None:
    bad = dataclasses.replace(
        config,
        attacks="shift_attack",
        defenses="shift_back,none",
        overrides=("shift_back.loss=memory",),
    )
    assert runner.run(bad) == 1
    found = {r.cell.defense: r for r in stored_records(Store(bad.folder))}
    assert "out of memory" in last_line(found["shift_back"].error)
    assert found["none"].status == "done"
