#!/usr/bin/env python
"""How the audit's graph scales on pretended GPUs: `python jobs/benchmark.py --fake-gpus 1,16 --batch-seconds 0.5`."""

import sys

from ldm_scale.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", "scale", *sys.argv[1:]]))
