"""What a LoRA's file says besides its weights, checked before a library follows it.

peft matches the names of a file and of its configuration as regular expressions, makes weights of the ranks that are
named, and can import a module that is named.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import safe_open

from ldm_scale.targets.configurations import texts

# A module's name, which is harmless as a regular expression; peft's own patterns may begin with the sign for it.
NAME = re.compile(r"\^?[\w.-]{1,300}")
# The keys of peft's configuration that are followed.
FOLLOWED = frozenset(
    (
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_bias"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    )
)
# Those that say how it was trained; a finished LoRA is the same with and without them.
IDLE = frozenset(
    (
        *("base_model_name_or_path", "revision", "peft_type", "peft_version", "task_type", "auto_mapping"),
        *("inference_mode", "lora_dropout", "runtime_config", "loftq_config", "megatron_core"),
    )
)
# Beginnings of the training that leave the base model's weights as they are.
STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def count_weights(file: Path) -> int:
    """How many tensors a LoRA's file holds, without the scalars alpha.

    Raises:
        ValueError: It holds none, or one whose name is none of a module.
    """
    with safe_open(file, framework="pt") as tensors:
        names = list(tensors.keys())
    _check_names(names)
    count = sum(not name.endswith(".alpha") for name in names)
    if not count:
        raise ValueError("it holds no weights")
    return count


def followed(metadata: Mapping[str, Any] | None, shapes: Iterable[Iterable[int]]) -> dict[str, Any] | None:
    """Of the configuration in a LoRA's header, what is followed; None if there is none.

    Args:
        metadata: peft's configuration of each model, its keys behind the model's name and a dot.
        shapes: of the file's weights.

    Raises:
        ValueError: It asks for more than a LoRA of these weights is.
    """
    if metadata is None:
        return None
    usual = {field.name: field.default for field in fields(LoraConfig)} | {"init_lora_weights": True}
    sizes = {size for shape in shapes for size in shape}
    kept = {}
    for name, value in metadata.items():
        key = name.rpartition(".")[2]
        if key in FOLLOWED:
            _check_names(texts(value))
            kept[name] = value
        if key in ("r", "rank_pattern") and not _numbers(value) <= sizes:
            raise ValueError(f"its header names ranks {value}, which its weights do not have")
        plain = value in STARTS if key == "init_lora_weights" else not value or value == usual.get(key)
        if key not in FOLLOWED | IDLE and not plain:
            raise ValueError(f"its header asks for {key[:40]}, which is not supported")
    return kept


def _check_names(names: Iterable[str]) -> None:
    if strange := next((name for name in names if not NAME.fullmatch(name)), None):
        raise ValueError(f"{strange[:100]!r} is no name of a module")


def _numbers(value: Any) -> set[Any]:
    """The ranks in a rank or a table of them."""
    return set(value.values()) if isinstance(value, dict) else {value} if value is not None else set()
