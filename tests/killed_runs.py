"""Starts the micro runs and stops each in the middle of its sixth step; then says so and waits to be killed."""

import sys
import threading
from pathlib import Path

from small_models import ALGORITHMS, train_micro

from rlhf_lib.runs import Run


class Stopping(Run):
    def __init__(self, *args, reached: threading.Event, **options):
        super().__init__(*args, **options)
        self.reached = reached

    def log(self, step: int, **metrics) -> None:
        super().log(step, **metrics)
        if step == 5:
            self.reached.set()
            threading.Event().wait()


def main(folder: Path) -> None:
    for algorithm in ALGORITHMS:
        reached = threading.Event()
        run = Stopping(folder / algorithm, checkpoint_every=3, progress=False, reached=reached)
        threading.Thread(target=train_micro, args=(algorithm, run), daemon=True).start()
        if not reached.wait(timeout=120):
            sys.exit(f"{algorithm} did not get to its sixth step")
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
