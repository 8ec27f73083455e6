#!/usr/bin/env python
"""Repeat the paper's CIFAR-10 row on photographs: pack, train and audit on several seeds, and print both side by side.

--size cpu, the default, has 1,000 members and as many held-out, a small U-Net and 1,800 steps: by what its stages took
on a busy machine, a seed takes about half an hour of one core. --size gpu has 5,000 and 5,000, a larger U-Net and one
seed; it was not timed. The same command goes on where it stopped; below --out are the shards, target and audits of each
seed, and reproduction.json with all numbers.
"""

import sys

from ldm_scale.cli import run_reproduction

if __name__ == "__main__":
    sys.exit(run_reproduction(__doc__))
