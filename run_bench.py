#!/usr/bin/env python
"""Run the benchmark: `python run_bench.py --help`."""

import sys

from t2i_backdoor_bench.command import main

if __name__ == "__main__":
    sys.exit(main())
