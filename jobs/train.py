#!/usr/bin/env python
"""Train a target on the members of a shard folder; --preset names what, and every option can be given over it."""

import sys

from ldm_scale.cli import run_training_job

if __name__ == "__main__":
    sys.exit(run_training_job(__doc__, {}))
