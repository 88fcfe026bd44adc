"""`python -m cmai_core.training` is `cmai train`, also for torchrun."""

import sys

from cmai_core.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
