"""A run folder with pictures, maps, prompts and hostile names, and a reader of its page."""

from __future__ import annotations

import dataclasses
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_tables import record

from t2i_backdoor_bench.contract import Prompt, Record, Score
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.contract.printable import lines
from t2i_backdoor_bench.running.prompts import store_prompts
from t2i_backdoor_bench.store.folder import Store

EVIL = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>&amp;\u2028'
SHOWN = lines(EVIL)  # as a reader sees it
PROMPTS = [f"prompt {i} {EVIL}" if i == 0 else f"prompt {i}" for i in range(10)]


def made(
    attack: str,
    defense: str,
    seed: int,
    asr: int,
    restored: int,
    fid: float,
    needs=(),
    status: str = "done",
):
    result = record(attack, defense, seed, asr, restored, fid, needs, status)
    options = {"name": attack.split("[")[0], "options": {"steps": 10, "note": EVIL}}
    config = {
        "attack": options,
        "defense": [{"name": defense, "options": {"steps": 4}}],
        "evaluation": {"n": 10},
        "shared": {"x": 1},
    }
    backdoor = {
        "trigger": {"text": EVIL, "place": "prefix", "replaces": ""},
        "target": {"kind": "style", "style": "sepia"},
    }
    judge = {"false_positive_rate": 0.0, "true_positive_rate": 1.0, "threshold": 0.1, "n": 5}
    cost = result.cost | {"losses": {defense: [3.0, 2.0, 1.0]}, "losses_attack": [0.5, 0.4]}
    return dataclasses.replace(
        result,
        cell=dataclasses.replace(result.cell, config=config, key=digest([attack, defense, seed])),
        backdoor=backdoor,
        judge=judge,
        cost=cost if status == "done" else {},
        error="" if status == "done" else f"Traceback\nRuntimeError: it broke {EVIL}",
    )


class Fixed:
    """A data source with the prompts above."""

    name = "fixed"

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        return [Prompt(t) for t in PROMPTS[:n]]


@pytest.fixture
def run(tmp_path: Path):
    return make_run(tmp_path)


def make_run(folder: Path) -> tuple[Store, list[Record]]:
    """A run folder with two attacks, a hostile one among them, pictures, maps and prompts; and its
    records."""
    records = []
    for attack in ("bad_pixel", EVIL):
        records.append(made(attack, "none", 0, 10, 0, 1.0))
        records.append(made(attack, "skdcag", 0, 1, 9, 1.1, ("trigger",)))
        records.append(
            made(
                attack,
                f"odd{EVIL}",
                0,
                0,
                2,
                1.4,
                ("trigger", "clean_model"),
                "done" if attack == EVIL else "failed",
            )
        )
    records[1].scores["drift"] = Score(None, note=f"no {EVIL}")
    store = Store(folder)
    rng = np.random.default_rng(0)

    def picture() -> np.ndarray:
        return rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)

    store.write_arrays("samples/before", {"clean": picture()})
    maps = {"picture": picture()[:1], "maps": rng.random((3, 4, 4)).astype(np.float32)}
    tokens = {"tokens": ["mi", EVIL, "cat"], "trigger": [0, 1]}
    store.write_arrays("maps/before", maps, tokens)
    for result in records:
        if result.status == "done":
            shown = {"prompts": PROMPTS[:3], "before": "before", "condition": "clean"}
            store.write_arrays(
                f"samples/{result.cell.key}", {"triggered": picture()}, {"shown": shown}
            )
            store.write_arrays(f"maps/{result.cell.key}", maps, tokens | {"before": "before"})
        store.write_result(result)
    store_prompts(store, Fixed(), [r for r in records])
    cells = [dataclasses.asdict(r.cell) for r in records]
    store.write_record(
        "run",
        {
            "cells": [{k: c[k] for k in ("attack", "defense", "seed", "key")} for c in cells],
            "needs": {r.cell.defense: list(r.needs) for r in records},
            "directions": records[0].directions,
            "protocol": records[0].protocol,
            "hardware": {"cpu": EVIL},
            "versions": {"torch": "2"},
            "judges": {EVIL: records[0].judge},
            "commit": "abc",
        },
    )
    return store, records


class Reader(HTMLParser):
    """Collects tags, attributes, ids, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, k, v) for k, v in attrs]
        if tag not in ("meta", "img", "input", "br", "link", "wbr", "line", "circle", "polygon"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, k, v) for k, v in attrs]

    def handle_endtag(self, tag):
        if tag in ("circle", "polygon"):
            return
        assert self.open, tag
        assert self.open.pop() == tag, "tags are nested"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        else:
            self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader
