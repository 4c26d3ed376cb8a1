"""Paths of a machine are found in texts, and what only looks like one is left alone."""

from __future__ import annotations

import pytest

from t2i_backdoor_bench.store.private_paths import paths_in, stripped


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('File "/home/ada/secret/run.py", line 3', 'File "run.py", line 3'),
        ("no weights in /data/nets/", "no weights in nets"),
        ("~/runs/one failed", "one failed"),
        (r"C:\Users\ada\x.pt is gone", "x.pt is gone"),
        ("out:/home/ada/run", "out:run"),
        ("see https://example.org/a/b/c", "see https://example.org/a/b/c"),
        ("a cat and/or a dog, 3/4", "a cat and/or a dog, 3/4"),
        ("results/reference/table.csv", "results/reference/table.csv"),
        ("/one", "/one"),
    ],
)
def test_what_is_left_of_a_text(text: str, right: str) -> None:
    assert stripped(text) == right
    assert not list(paths_in(stripped(text)))


def test_where_a_value_holds_a_path() -> None:
    value = {"data": "/home/ada/pictures", "parts": ["ok", {"clip": "~/clip/model"}], "n": 3}
    assert list(paths_in(value)) == ["data: /home/ada/pictures", "parts.clip: ~/clip/model"]
