"""The command `rlhf`: a module a subcommand."""

import argparse
import sys
from collections.abc import Sequence

from rlhf_lib.cli import fetch, train

# what a wrong name, file or number ends in; anything else is a bug, and shows where
MISTAKES = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlhf", description="Tools of the course on RL from human feedback.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    fetch.add_to(commands)
    train.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rlhf` with these arguments (default: the command line's); return the exit status."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except MISTAKES as error:
        print(f"rlhf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rlhf: stopped", file=sys.stderr)
        return 130
