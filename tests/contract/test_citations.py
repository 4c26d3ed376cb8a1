"""Citations: the BibTeX file, what a docstring cites, what a method names."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from t2i_backdoor_bench.contract import Entry, citations, registry


@dataclass
class Plain:
    """Nothing to cite."""


@dataclass
class Cites:
    """A method (Zhai et al., MM 2023), compared with that of Gandikota et al. 2024; see arXiv
    2305.04175 and Binkowski et al. 2018."""


def test_the_file_is_whole():
    papers = citations.papers()
    text = citations.FILE.read_text(encoding="utf-8")
    assert len(papers) == text.count("\n@") + 1
    for key, paper in papers.items():
        assert paper.authors, key
        assert re.fullmatch(r"(19|20)\d\d", paper.year), key
        assert key.endswith(re.search(r"[a-z0-9]+$", key)[0])
        assert paper.year in key, "a key names its year"
        assert paper.bibtex.startswith("@")
        assert paper.bibtex.count("{") == paper.bibtex.count("}")
        assert "title" in paper.bibtex
    assert len({p.eprint for p in papers.values() if p.eprint}) == sum(
        bool(p.eprint) for p in papers.values()
    )


def test_what_a_docstring_cites():
    assert citations.cited(Plain.__doc__) == []
    assert [p.key for p in citations.cited(Cites.__doc__)] == [
        "zhai2023badt2i",
        "gandikota2024unified",
        "binkowski2018demystifying",
    ]


def test_a_method_may_name_its_papers():
    keys = [
        p.key for p in citations.of_method(Entry("x", Plain, paper="fan2024salun, heusel2017gans"))
    ]
    assert keys == ["fan2024salun", "heusel2017gans"]
    own = '@article{me2031, title = {Mine}, author = {Jane Doe and M{\\"u}ller, Max}, year = 2031}'
    (found,) = citations.of_method(Entry("x", Plain, paper=own))
    assert (found.key, found.authors, found.year, found.short) == (
        "me2031",
        ("Doe", "Muller"),
        "2031",
        "Doe and Muller 2031",
    )
    assert (
        citations.of_method(Entry("x", Plain, paper="not in the file"))[0].short
        == "not in the file"
    )


def test_short_names():
    papers = citations.papers()
    assert papers["friedman2023vendi"].short == "Friedman and Dieng 2023"
    assert papers["binkowski2018demystifying"].short == "Binkowski et al. 2018"


def test_a_run_cites_each_paper_once_with_its_methods():
    entries = [registry.attacks.get(n) for n in ("badt2i_pixel", "poison_pixel", "badt2i_style")]
    found = citations.of_run(entries)
    assert [(p.key, names) for p, names in found[:2]] == [
        ("zhai2023badt2i", ["badt2i_pixel", "badt2i_style"]),
        ("aravindan2025sealing", ["poison_pixel"]),
    ]
    assert [p.key for p, _ in found[2:]] == list(citations.EVERY_RUN)


@pytest.mark.parametrize(
    "name", ["skdcag", "skdcag_released", "uce", "esd_x", "tpd_synonyms", "concept_prune"]
)
def test_published_defenses_have_a_paper(name: str):
    assert citations.short(registry.defenses.get(name))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("rickrolling_tpa", "struppek2023rickrolling"),
        ("rickrolling_taa", "struppek2023rickrolling"),
        ("eviledit", "wang2024eviledit"),
        ("iba", "zhang2025trigger"),
        ("sembd", "chen2026semantic"),
    ],
)
def test_published_attacks_have_their_paper(name: str, key: str):
    assert [p.key for p in citations.of_method(registry.attacks.get(name))] == [key]
