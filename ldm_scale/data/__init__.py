"""From official downloads to WebDataset shards, and from shards to preprocessed images."""
