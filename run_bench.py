#!/usr/bin/env python
"""Run the benchmark from a clone, installed or not: `python run_bench.py --help`."""

import importlib.util
import sys
from pathlib import Path

NAME, ROOT = "t2i_backdoor_bench", Path(__file__).resolve().parent

if importlib.util.find_spec(NAME) is None:  # not installed: map the folders of the clone to it
    folders = [str(ROOT / "bench"), str(ROOT)]
    spec = importlib.util.spec_from_file_location(
        NAME, ROOT / "bench" / "__init__.py", submodule_search_locations=folders
    )
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])

from t2i_backdoor_bench.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
