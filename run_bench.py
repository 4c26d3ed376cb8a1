#!/usr/bin/env python
"""Run the benchmark from a clone, installed or not: `python run_bench.py --help`."""

import importlib.util
import sys
from pathlib import Path

NAME, ROOT = "t2i_backdoor_bench", Path(__file__).resolve().parent


def find_package() -> None:
    """Map the folders of the clone to the package, unless it is installed. Ray calls this in its
    own processes."""
    if importlib.util.find_spec(NAME) is not None:
        return
    folders = [str(ROOT / "bench"), str(ROOT)]
    spec = importlib.util.spec_from_file_location(
        NAME, ROOT / "bench" / "__init__.py", submodule_search_locations=folders
    )
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])


find_package()

from t2i_backdoor_bench.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
