"""The names of the classes that a target was trained on, as DiT pipelines and targets trained here record them."""

import json
from pathlib import Path


def read_class_names(folder: Path) -> tuple[str, ...]:
    """`id2label` of a target's model_index.json, by number; none if it does not name them all."""
    try:
        names = json.loads((folder / "model_index.json").read_bytes())["id2label"]
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
