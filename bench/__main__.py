"""`python -m t2i_backdoor_bench` is the command."""

import sys

from t2i_backdoor_bench.command import main

if __name__ == "__main__":
    sys.exit(main())
