"""`python -m rlhf_lib.cli` is `rlhf`."""

import sys

from rlhf_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
