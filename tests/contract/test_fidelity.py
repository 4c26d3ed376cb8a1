"""Where a default is from, what a search may try, and where a method differs from its paper."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from t2i_backdoor_bench import docs
from t2i_backdoor_bench.contract import Difference, option, options_of, registry
from t2i_backdoor_bench.contract.listing import listed
from t2i_backdoor_bench.contract.options import SOURCES


@dataclass
class Some:
    rate: float = option(1e-3, sd=1e-5, above=0, source="paper", tune=(1e-4, 1e-2))
    share: float = option(0.5, low=0, high=1, source="released")
    steps: int = option(100, low=1)


def test_a_default_of_the_embedded_base_alone_is_ours() -> None:
    known = {name: found for name, (_, found) in options_of(Some).items()}
    assert known["rate"].source_of("shapes") == "ours"
    assert known["rate"].source_of("sd") == "paper"
    assert known["share"].source_of("shapes") == known["share"].source_of("sd") == "released"
    assert known["steps"].source_of("sd") == "ours"


@pytest.mark.parametrize(
    "wrong",
    [
        {"tune": (1.0, 0.1)},
        {"tune": (0.1,)},
        {"tune": (0.5, 0.5)},
        {"tune": (-1.0, 0.5), "low": 0},
        {"tune": (0.0, 0.5), "above": 0},
        {"tune": (0.5, 2.0), "high": 1},
        {"tune": ("a", "c"), "choices": ("a", "b")},
        {"tune": (0.1, float("inf"))},
        {"source": "published"},
    ],
)
def test_bad_ranges_and_sources_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"tune|source"):
        option(0.1, **wrong)


def test_every_default_says_where_it_is_from() -> None:
    for kind in (registry.attacks, registry.defenses):
        kind.load()
        for entry in kind.entries.values():
            for name, (_, found) in options_of(entry.cls).items():
                for family in registry.FAMILIES:
                    assert found.source_of(family) in SOURCES, (entry.name, name)


def test_a_difference_needs_its_reason() -> None:
    Difference(what="rows", paper="16", released="8", here="16")
    with pytest.raises(ValueError, match="why"):
        Difference(what="rows", paper="16", here="8")
    with pytest.raises(ValueError, match="paper"):
        Difference(what="rows", here="8", why="memory")


def test_what_is_ours_is_said_first_and_every_difference_is_on_the_page() -> None:
    page = docs.fidelity_page()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for kind in (registry.attacks, registry.defenses):
        kind.load()
        summaries = {method.name: method.summary for method in listed(kind.kind)}
        for entry in kind.entries.values():
            assert f"`{entry.name}`" in page
            if entry.ours:
                assert f"Ours, in no paper: {entry.ours}" in summaries[entry.name]
                assert f"`{entry.name}` is ours: {entry.ours}" in page
            for fact in entry.differs:
                why = fact.why or "as the paper"
                assert any(fact.what in row and f" {why} |" in row for row in rows), entry.name
            if entry.tried and entry.tuned:
                told = f"`{entry.name}` on the embedded base, by the search of settings: "
                (line,) = (line for line in page.splitlines() if told in line)
                for name, value in entry.tuned.items():
                    searched = value != entry.declared.get(name)
                    assert (f" {name} {value}" in line) == searched, entry.name


def test_no_page_of_methods_calls_a_default_published() -> None:
    """Paper, released code or ours: the tables say which of them, default by default."""
    for kind in (registry.attacks, registry.defenses):
        assert "published" not in docs.page(kind).lower()
