#!/usr/bin/env python
"""How fast everything is, in one table; `--fake-gpus 1,16 --batch-seconds 0.5` alone: the graph on pretended GPUs."""

import sys

from ldm_scale.cli import main, run_benchmarks

# About twelve minutes on two cores.
RECIPE = {
    "reduce": {"rows": 20_000},
    "scale": {"fake_gpus": (1, 4, 16), "batches": 40},
}

if __name__ == "__main__":
    if any(word.startswith("--fake-gpus") for word in sys.argv):
        sys.exit(main(["benchmark", "scale", *sys.argv[1:]]))
    sys.exit(run_benchmarks(__doc__, RECIPE))
