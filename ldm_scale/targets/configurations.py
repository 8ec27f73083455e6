"""Which keys of a component's configuration a library is given, and which numbers it may name.

From a configuration the libraries also learn which files to load, which code to import and which package to ask for a
kernel. They are given what describes the component, as far as its class knows it, and nothing else.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusers import SchedulerMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ldm_scale.errors import UsageError
from ldm_scale.targets.layout import variant_of

# What makes other weights or another model of a component: without it, the component would be a different one.
CHANGING = ("quantization_config", "compression_config", "transformers_weights", "text_config", "per_layer_config")
# Of transformers' configurations, besides what the class itself declares.
COMMON = frozenset(("architectures", "model_type", "dtype", "torch_dtype", "tie_word_embeddings"))
SPECIAL_TOKENS = frozenset(
    (
        *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
        *("additional_special_tokens", "extra_special_tokens"),
    )
)
TOKENIZER_KEYS = SPECIAL_TOKENS | {
    *("added_tokens_decoder", "add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces"),
    *("do_lower_case", "errors", "extra_ids", "legacy", "model_max_length", "padding_side", "split_special_tokens"),
    "truncation_side",
}
# The key of a table that says which characters are written as which, in base64.
CHARACTERS = "precompiled_charsmap"
# Characters of a piece of a vocabulary; tokenizers, which goes down a piece letter by letter, dies of a million.
LONGEST_PIECE = 1_000
# Far above those of any known model: most have 1,000 timesteps, T5 has 100 tokens of its own.
MOST = {"num_train_timesteps": 100_000, "extra_ids": 10_000}
# Of every key that counts layers; FLUX has 38 of a kind.
MOST_LAYERS = 1_000


def kept_keys(kind: Any) -> dict[str, frozenset[str]]:
    """The keys that a class of diffusers or transformers is given, by the name of the file that holds them."""
    if issubclass(kind, PreTrainedTokenizerBase):
        return {"tokenizer_config.json": TOKENIZER_KEYS, "special_tokens_map.json": SPECIAL_TOKENS}
    if issubclass(kind, PreTrainedModel):
        config = kind.config_class
        return {"config.json": COMMON.union(inspect.get_annotations(config), config.attribute_map)}
    name = "scheduler_config.json" if issubclass(kind, SchedulerMixin) else "config.json"
    return {name: frozenset(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}}


def given(kind: Any, path: Path, data: bytes) -> bytes:
    """What a class of diffusers or transformers is given of a file that describes a component.

    Args:
        kind: the class.
        path: of the file.
        data: all of it.

    Raises:
        UsageError: It has a key that cannot be left out, a number that a library would count up to, or names weights
            that are not read.
    """
    if ".index" in path.name:
        _check_index(path, data)
    if path.suffix == ".json" and issubclass(kind, PreTrainedTokenizerBase):
        pieces = texts(_table(path, data))
        if longest := next((text for text in pieces if len(text) > LONGEST_PIECE), None):
            raise UsageError(f"{path} has a piece of {len(longest):,} characters; up to {LONGEST_PIECE:,} are read")
    if (keys := kept_keys(kind).get(path.name)) is None:
        return data
    config = _table(path, data)
    _check_config(path, config)
    return json.dumps({key: value for key, value in config.items() if key in keys}).encode()


def _table(path: Path, data: bytes) -> dict[str, Any]:
    try:
        table = json.loads(data)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise UsageError(f"{path} holds no table of JSON")
    return table


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    if changing := next((key for key in CHANGING if config.get(key) is not None), None):
        raise UsageError(f"{path}: {changing} is not supported; give a target with plain weights")
    limits = dict.fromkeys((key for key in config if "layers" in key), MOST_LAYERS) | MOST
    for key, most in limits.items():
        if not all(type(number) is int and 0 <= number <= most for number in _flat(config.get(key))):
            raise UsageError(f"{path}: {key} = {json.dumps(config[key])[:40]} is no whole number up to {most:,}")


def _flat(value: Any) -> list[Any]:
    """The values in lists of lists; a missing one is none."""
    if isinstance(value, list):
        return [one for part in value for one in _flat(part)]
    return [] if value is None else [value]


def texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, the keys of tables among them; a table of characters is none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from texts(part) if key != CHARACTERS else ()
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def _check_index(path: Path, data: bytes) -> None:
    """Raise UsageError if an index names a file that is none of its component's weights."""
    places = _table(path, data).get("weight_map")
    files = set(map(str, places.values())) if isinstance(places, dict) else {"no weight_map"}
    if strange := sorted(name for name in files if variant_of(name) is None):
        raise UsageError(
            f"{path} names {strange[0]!r}: an index may only name .safetensors files in its own folder, as diffusers "
            "and transformers call them"
        )
