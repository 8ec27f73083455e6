#!/usr/bin/env python
"""Pack a data set into shards as a Ray job: `ray job submit jobs/pack.py -- imagenet s3://... s3://...`."""

import sys

from ldm_scale.cli import main

if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]]))
