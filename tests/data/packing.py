"""Packing a source, and what came of it."""

import json
from pathlib import Path

from ldm_scale.config.data import PackConfig
from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import read_shard
from ldm_scale.files.storage import Location


def config(source: Path, out: Path, **changes: object) -> PackConfig:
    values = {"dataset": "folder", "source": str(source), "out": str(out), "near_duplicates": 0}
    return PackConfig.model_validate(values | changes)


def packed(out: Path) -> dict[str, dict[str, Sample]]:
    """Samples by side and key, from the shards themselves."""
    folder = Location.of(out)
    sides: dict[str, dict[str, Sample]] = {"members": {}, "heldout": {}}
    for shard in read_manifest(folder).shards:
        samples = read_shard(folder, shard)
        sides[shard.name.split("/")[0]].update({sample.key: sample for sample in samples})
    return sides


def keys(out: Path) -> tuple[list[str], list[str]]:
    sides = packed(out)
    return sorted(sides["members"]), sorted(sides["heldout"])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rejected(out: Path) -> dict[str, str]:
    return {reject["key"]: reject["reason"] for reject in json.loads((out / "rejects.json").read_text())}
