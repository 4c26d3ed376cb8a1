"""What tables say of the protocol: its number, the attacks, and what a defender knew."""

from __future__ import annotations

import pytest

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.report.attack_line import attack_columns, attack_line
from t2i_backdoor_bench.report.main_table import caption
from t2i_backdoor_bench.report.numbers import known_by, needs_text
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.store.forms import WrongForm
from t2i_backdoor_bench.store.record_format import RECORD, as_json, parse_result

NEW = {"protocol": {"protocol": 2, "base": "shapes"}}


def record(name: str = "a", seed: int = 0, **more) -> Record:
    return Record(Cell("shapes", name, "d", seed, f"{name}{seed}"), "done", **more)


def facts(kind: str = "rare word", share: float | None = 0.35, by: str = "ours") -> dict:
    found = {"trigger_kind": kind, "poison_share": share, "settings_by": by}
    return found | {"evaluates_with": "captions"}


def test_needs_say_how_much() -> None:
    known = {"clean_prompts": 100, "stream": 160, "trigger": 3}
    assert needs_text("trigger clean_prompts", known) == "trigger, 100 clean prompts"
    assert needs_text("clean_prompts stream", known) == (
        "100 clean prompts, 160 prompts of a stream"
    )
    assert needs_text("trigger clean_prompts") == "trigger, clean prompts", "older records"
    assert needs_text("", known) == needs_text("") == "–"


def test_a_row_says_the_most_that_any_of_its_cells_read() -> None:
    cells = [record(seed=i, knowledge={"clean_prompts": n}) for i, n in enumerate((24, 100))]
    assert known_by(cells) == {"clean_prompts": 100}
    for cell in cells:
        cell.needs = ("clean_prompts",)
    (row,) = rows(cells)
    assert (row["needs"], row["given"]) == ("clean_prompts", "100 clean prompts")


def test_records_keep_what_was_known_and_how_the_attack_was_made() -> None:
    before = record(knowledge={"clean_prompts": 100}, attack=facts())
    stored = as_json(before)
    assert parse_result(stored) == before
    for name in ("knowledge", "attack"):
        del stored["extra"][name]
    older = parse_result(stored)
    assert older.knowledge == older.attack == {}
    for wrong in ("many", [1], {"clean_prompts": "many"}):
        with pytest.raises(WrongForm, match="knowledge"):
            RECORD(as_json(record(knowledge=wrong)), "")


def test_the_caption_says_the_protocol_first() -> None:
    assert caption([record(**NEW)]).startswith("Protocol 2. Base shapes;")
    assert caption([record()]).startswith("Protocol 1. "), "records of the first do not say"


def test_the_caption_names_what_attacks_do_not_share() -> None:
    one, two = record("one", attack=facts()), record("two", attack=facts("phrase", None))
    line = attack_line([one, two])
    assert "Triggers: rare word (one); phrase (two)." in line
    assert "35 % (one); no training (two)." in line
    assert "Settings of the attacks by: ours." in line
    assert line in caption([one, two])
    many = [record(f"a{i}", attack=facts()) for i in range(4)]
    assert "rare word (4 attacks); phrase (two)" in attack_line([*many, two])
    assert attack_line([record()]) == "", "older records say nothing"


def test_the_columns_of_the_table() -> None:
    known = attack_columns([record(), record(attack=facts())])
    assert known == facts()
    assert set(attack_columns([record()]).values()) == {None}
    (row,) = rows([record(attack=facts("phrase", 0.1))])
    assert (row["trigger_kind"], row["poison_share"]) == ("phrase", 0.1)
