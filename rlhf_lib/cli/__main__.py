import sys

from rlhf_lib.cli import main

sys.exit(main())
