"""The names of the classes that a target was trained on, as DiT pipelines and targets trained here record them."""

from pathlib import Path

from ldm_scale.errors import UsageError
from ldm_scale.targets.intake import read_config


def read_class_names(folder: Path) -> tuple[str, ...]:
    """`id2label` of a target's model_index.json, by number; none if it does not name them all."""
    try:
        names = read_config(folder / "model_index.json", "id2label")["id2label"]
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except (UsageError, KeyError, TypeError):
        return ()
