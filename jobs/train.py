#!/usr/bin/env python
"""Train a target on the members of a shard folder: `ldm-scale train`, with the same arguments, as a job."""

import sys

from ldm_scale.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
