"""`rlhf fetch [ratings] [smollm2] [--verify]`: download what is missing and print where it is."""

import argparse

from rlhf_lib import assets


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "fetch",
        help="download the ratings (default) or SmolLM2 into the cache",
        description="Download data and weights that the course does not ship, unless the cache has them already; "
        "print the folder of each. The cache is RLHF_CACHE if set, else rlhf-course in your cache folder.",
    )
    known = ", ".join(assets.ASSETS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to fetch: {known} (default: ratings)")
    parser.add_argument("--verify", action="store_true", help="hash every cached file, large ones too")

    def run(arguments: argparse.Namespace) -> int:
        names = arguments.names or ["ratings"]
        for name in names:
            if name not in assets.ASSETS:
                parser.error(f"nothing is called {name!r}; choose from {known}")
        for name in names:
            print(f"{name}: {assets.fetch(name, verify=arguments.verify)}")
        return 0

    parser.set_defaults(run=run)
