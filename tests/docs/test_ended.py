"""Benchmarks that resume end with one line and a status."""

from __future__ import annotations

import pytest
from ended import ended

from t2i_backdoor_bench.contract import UserError


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (None, 0, ""),
        (UserError("no such method"), 2, "error: no such method\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command resumes\n"),
    ],
)
def test_a_line_and_a_status(capsys, error, status, line) -> None:
    def work() -> int:
        if error is not None:
            raise error
        return 0

    assert ended(work) == status
    assert capsys.readouterr().err == line
