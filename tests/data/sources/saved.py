"""Data sets as `save_to_disk` of Hugging Face's `datasets` writes them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa


def save_to_disk(folder: Path, tables: Sequence[pa.Table], split: str | None = None, rows: int = 2) -> Path:
    """One file a table, in record batches of so many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0f0e",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}, "splits": {}}))
    return folder


def save_dict(folder: Path, splits: dict[str, Sequence[pa.Table]]) -> Path:
    """A folder a split."""
    for name, tables in splits.items():
        save_to_disk(folder / name, tables, name)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder
