"""The site of several runs: every page is whole, hostile names stay text, and links lead
somewhere."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_pages import EVIL, SHOWN, make_run, read
from test_tables import record

from t2i_backdoor_bench.command import main
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.report.site import boards
from t2i_backdoor_bench.report.site.build import write_site
from t2i_backdoor_bench.report.site.names import paper_link, slug
from t2i_backdoor_bench.stats.estimates import Estimate
from t2i_backdoor_bench.store.folder import Store

PLUGIN = "their_defense"


def plugin_run(folder: Path) -> Path:
    """A run of another author, with a defense that is not installed here and its paper."""
    store, records = Store(folder), []
    for defense, restored, needs in (("none", 0, ()), (PLUGIN, 9, ("trigger",))):
        found = record("bad_pixel", defense, 0, 10 - restored, restored, 1.0, needs)
        key = digest([defense])
        records.append(dataclasses.replace(found, cell=dataclasses.replace(found.cell, key=key)))
        store.write_result(records[-1])
    bibtex = "@article{x, author = {Doe, Jane}, year = {2031}, eprint = {3101.00001}}"
    cells = [dataclasses.asdict(r.cell) for r in records]
    store.write_record(
        "run",
        {
            "cells": [{k: c[k] for k in ("attack", "defense", "seed", "key")} for c in cells],
            "needs": {r.cell.defense: list(r.needs) for r in records},
            "directions": records[0].directions,
            "protocol": records[0].protocol,
            "citations": [{"short": "Doe 2031", "methods": [PLUGIN], "bibtex": bibtex}],
        },
    )
    return folder


def make_site(folder: Path) -> Path:
    make_run(folder / "ours")
    out = folder / "site"
    write_site(out, [folder / "ours", plugin_run(folder / "theirs")], lambda text: None)
    return out


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("two runs"))


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def board(site: Path) -> Path:
    return next(p for p in pages(site) if p.name.endswith("-trigger-known.html"))


def test_pages_load_nothing_from_elsewhere_and_run_only_their_own(site: Path) -> None:
    for path in pages(site):
        reader = read(path.read_text(encoding="utf-8"))
        policy = next(v for _, k, v in reader.attributes if k == "content" and "default-src" in v)
        assert policy.startswith("default-src 'none'; img-src data: 'self'; style-src 'sha256-")
        assert "unsafe" not in policy
        for tag, name, value in reader.attributes:
            assert not name.startswith("on"), (path, tag, name)
            assert name != "style", path
            if name == "src":
                assert re.fullmatch(r"(\.\./)*pictures/[0-9a-f]{20}\.(png|webp)", value), value
        assert not reader.tags["link"]
        assert not reader.tags["iframe"]
        assert all(
            kind.get("type") == "application/json" or i == len(reader.scripts) - 1
            for i, (kind, _) in enumerate(reader.scripts)
        )


def test_every_link_leads_to_a_page_of_the_site_or_to_a_paper(site: Path) -> None:
    reached = {site / "index.html"}
    for path in pages(site):
        reader = read(path.read_text(encoding="utf-8"))
        ids = {v for _, k, v in reader.attributes if k == "id"}
        for tag, name, value in reader.attributes:
            if name not in ("href", "src"):
                continue
            if value.startswith("https://"):
                assert value.startswith("https://arxiv.org/abs/"), value
            elif value.startswith("#"):
                assert value[1:] in ids or re.fullmatch(r"#cell-\d+", value), (path, value)
            else:
                target = (path.parent / value).resolve()
                assert target.is_file(), (path, tag, value)
                reached.add(target)
    assert reached >= set(pages(site)), "no page without a way to it"


def test_hostile_names_stay_text_and_lead_to_plain_files(site: Path) -> None:
    assert all(re.fullmatch(r"[a-z0-9_.-]+", p.name) for p in site.rglob("*"))
    found = [p for p in pages(site) if SHOWN in "".join(read(p.read_text("utf-8")).text)]
    folders = {p.relative_to(site).parts[0] for p in found}
    assert folders >= {"boards", "cells", "methods", "runs"}
    assert slug(EVIL) != slug(EVIL + "x")
    assert slug("../../etc/passwd").count(".") == 0


def test_two_authors_with_different_methods_stand_in_one_board(site: Path) -> None:
    text = "".join(read(board(site).read_text("utf-8")).text)
    assert PLUGIN in text
    assert "skdcag" in text
    assert "Doe 2031" in text, "the paper of a method that is not installed here"
    assert 'href="https://arxiv.org/abs/3101.00001"' in board(site).read_text("utf-8")
    with board(site).with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["defense"], row["run"]) for row in rows} == {
        ("skdcag", "ours"),
        (PLUGIN, "theirs"),
    }
    assert float(rows[0]["restoration_accuracy"]) == pytest.approx(0.9)
    assert all(row["status"] == "reported" for row in rows)


def test_one_easy_attack_is_not_first_on_the_card(monkeypatch) -> None:
    def run(name: str, attacks: int, restored: float):
        worst = SimpleNamespace(value=restored, restored=Estimate(restored, None, None))
        first = SimpleNamespace(under=("a",) * attacks, worst=worst, defense=name, needs="trigger")
        leading = SimpleNamespace(rows=[first], ranked=1)
        standing = SimpleNamespace(status="reported")
        return SimpleNamespace(slug=name, name=name, smoke=False, standing=standing), leading

    runs = (run("easy", 1, 1.0), run("whole", 7, 0.6), run("half", 7, 0.3))
    monkeypatch.setattr(boards, "leaders", lambda own: {"trigger": own[0]})
    monkeypatch.setattr(boards, "first_of", lambda group: "")
    monkeypatch.setattr(boards.Board, "runs", [one for one, _ in runs])
    found = boards.wins_of(boards.Board(2, "shapes", "Trigger known", runs))
    assert [(w["name"], w["attacks"]) for w in found] == [("whole", 7), ("half", 7), ("easy", 1)]
    assert "First of 1 ranked on 7 attacks" in found[0]["how"]


def test_a_cell_has_the_pictures_of_its_own_defense(site: Path) -> None:
    text = (site / "cells/ours/bad_pixel--skdcag.html").read_text("utf-8")
    alts = [v for tag, k, v in read(text).attributes if (tag, k) == ("img", "alt")]
    names = {alt.partition(":")[0] for alt in alts}
    assert names == {"clean model", "attacked", "skdcag"}
    assert "Restored" in text or "restoration_accuracy" in text


def test_a_site_is_made_again_and_other_folders_are_left_alone(tmp_path: Path, capsys) -> None:
    theirs, out = plugin_run(tmp_path / "theirs"), tmp_path / "site"
    assert main(["site", str(out), str(theirs)]) == 0
    first = {p.relative_to(out) for p in out.rglob("*.html")}
    theirs.rename(tmp_path / "renamed")
    assert main(["site", str(out), str(tmp_path / "renamed")]) == 0
    now = {p.relative_to(out) for p in out.rglob("*.html")}
    assert Path("runs/theirs.html") in first - now
    assert Path("runs/renamed.html") in now
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(UserError, match="holds other files than a site"):
        write_site(mine, [tmp_path / "renamed"])
    with pytest.raises(UserError, match="given twice"):
        write_site(tmp_path / "s", [tmp_path / "renamed"] * 2)
    assert main(["site", str(tmp_path / "s2"), str(tmp_path / "nothing")]) == 2
    assert "there is no run folder" in capsys.readouterr().err


def test_the_list_of_an_earlier_site_leads_nowhere_else(tmp_path: Path) -> None:
    out, victim = tmp_path / "site", tmp_path / "victim.txt"
    victim.write_text("mine", encoding="utf-8")
    out.mkdir()
    (out / "site.json").write_text('{"files": ["../victim.txt"]}', encoding="utf-8")
    write_site(out, [plugin_run(tmp_path / "run")], lambda text: None)
    assert victim.is_file()
    assert os.listdir(out / "runs") == ["run.html"]


def test_only_numbers_of_arxiv_become_addresses() -> None:
    entry = "@misc{{x, eprint = {{{}}}}}"
    assert paper_link(entry.format("2305.04175")) == "https://arxiv.org/abs/2305.04175"
    assert paper_link(entry.format("../javascript:1")) == ""
    assert paper_link("no entry") == ""
