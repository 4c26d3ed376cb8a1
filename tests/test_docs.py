"""The pages that are written from the registry are those that are committed."""

from __future__ import annotations

from bench import docs


def test_pages_are_up_to_date(clean_registry) -> None:
    for path, text in docs.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: run python -m bench.docs"
        assert text.count("\n## ") >= 5
