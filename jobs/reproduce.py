#!/usr/bin/env python
"""Repeat the paper's CIFAR-10 row on photographs: pack, train and audit on several seeds, and print both side by side.

With --size cpu, the default, each seed takes about ten minutes on two free cores: 1,000 members and as many held-out, a
small U-Net, 1,800 steps. --size gpu takes 5,000 and 5,000 and a larger U-Net on one GPU. The same command goes on where
it stopped; below --out are the shards, target and audits of each seed, and reproduction.json with all numbers.
"""

import sys

from ldm_scale.cli import run_reproduction

if __name__ == "__main__":
    sys.exit(run_reproduction(__doc__))
