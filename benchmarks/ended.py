"""How commands that resume end: one line and a status."""

from __future__ import annotations

import sys
from collections.abc import Callable

from t2i_backdoor_bench.contract import UserError


def ended(work: Callable[[], int]) -> int:
    """The status of `work`; 2 for what the user asked for and cannot have, 130 where it was
    interrupted."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
