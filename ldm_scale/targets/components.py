"""One component of a target, from its folder: whole, or its shapes alone, and never larger than its files are."""

import errno
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, SD3Transformer2DModel
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PreTrainedModel

from ldm_scale.errors import UsageError, one_line
from ldm_scale.targets.configurations import given
from ldm_scale.targets.intake import OWN, handed_over, read_config
from ldm_scale.targets.layout import MODEL, VARIANTS, choose_variant, saved_twice

# Weights that a model may have: FLUX's transformer has 1,156, Stable Diffusion XL's U-Net 1,680.
MOST_WEIGHTS = 20_000
# Classes that cannot be without a `sample_size`.
SIZED = (AutoencoderKL, DiTTransformer2DModel, SD3Transformer2DModel)
# Numbers that a model may hold beyond those of its files, such as the sines and cosines of places.
COMPUTED = 1 << 26


@contextmanager
def loading(component: Path, what: str) -> Iterator[None]:
    """A block in which what a library raises means that these files do not make this component: UsageError."""
    try:
        yield
    except (UsageError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            # No fault of theirs: a file of our own had no room.
            raise
        # Of many kinds: a panic of what is written in Rust is no Exception.
        said = re.sub(rf"{re.escape(gettempdir())}/{OWN}\w+", str(component), one_line(error))
        raise UsageError(f"target {what} {component} cannot be loaded: {said}") from error


def load_component(component: Path, kind: Any, what: str, described: tuple[str, ...]) -> Any:
    """A schedule or tokenizer of a class that has from_pretrained, from its local folder.

    Args:
        component: the folder.
        kind: its class.
        what: it is, in messages.
        described: patterns of the files that describe it.

    Raises:
        UsageError: These files do not make this component.
    """
    with loading(component, what), handed_over(component, described, partial(given, kind)) as own:
        return kind.from_pretrained(own, local_files_only=True)


def load_model(component: Path, kind: Any, what: str, device: str | torch.device) -> Any:
    """A model in float32 on a device, every weight of it from the safetensors of its local folder.

    Args:
        component: the folder.
        kind: its class.
        what: it is, in messages.
        device: on "meta" it has shapes but no numbers, and needs no weights.

    Raises:
        UsageError: There are no safetensors weights, or not those of this class.
    """
    variant = None if torch.device(device).type == "meta" else find_variant(component, what)
    with loading(component, what), handed_over(component, MODEL, partial(given, kind)) as own:
        size = _square_size(component, kind, what)
        outline = _outline(own, kind, size)
        if variant is None:
            return outline
        _check_size(outline, sorted(own.glob("*.safetensors")))
        model, found = kind.from_pretrained(
            own,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            variant=variant or None,
            output_loading_info=True,
            **size,
        )
    # The libraries would put random numbers in their place.
    if missing := sorted(found["missing_keys"]):
        raise UsageError(
            f"target {what} {component}: {len(missing)} weights are not in its files, the first is {missing[0]}"
        )
    return model.float().to(device)


def find_variant(component: Path, what: str) -> str:
    """The variant of a component's weights that is read; "" are plain ones."""
    names = sorted(path.name for path in component.iterdir() if path.suffix == ".safetensors")
    variant = choose_variant(names)
    if variant is not None and saved_twice(names, variant):
        # An index left by an older save would win over the weights that were saved last.
        raise UsageError(
            f"target {what} {component} has its weights both whole and in parts, or in parts of two kinds "
            f"({', '.join(names)[:200]}); leave the ones to be audited there alone, without another's index"
        )
    if variant is not None:
        return variant
    if not names:
        raise UsageError(f"target {what} {component} has no .safetensors file; other weight formats are not read")
    raise UsageError(
        f"target {what} {component} has {', '.join(names)}, of which none is plain or of one of {VARIANTS[1:]}; leave "
        "the one to be audited there alone"
    )


def _square_size(component: Path, kind: Any, what: str) -> dict[str, int]:
    """The option that makes a `sample_size` of [n, n] the one number that every class takes."""
    if issubclass(kind, PreTrainedModel):
        return {}
    path = component / "config.json"
    config = read_config(path, "_class_name")
    size = config.get("sample_size")
    sides = size if isinstance(size, list) else [size, size]
    if "sample_size" not in config or (size is None and not issubclass(kind, SIZED)):
        return {}
    if len(sides) == 2 and sides[0] == sides[1] and type(sides[0]) is int and sides[0] > 0:
        return {"sample_size": sides[0]}
    raise UsageError(
        f"target {what} {path}: sample_size = {json.dumps(size)}: only square images are audited; set one number"
    )


def _outline(folder: Path, kind: Any, size: dict[str, int]) -> nn.Module:
    """A model with shapes but no numbers, on the device "meta", from its configuration."""
    with torch.device("meta"), _counted():
        if issubclass(kind, PreTrainedModel):
            return kind(kind.config_class.from_pretrained(folder, local_files_only=True)).float()
        return kind.from_config(kind.load_config(folder, local_files_only=True), **size).float()


@contextmanager
def _counted() -> Iterator[None]:
    """A block in which no more weights are made than a model may have: a configuration may ask for any number."""
    count = 0

    def register(*_: object) -> None:
        nonlocal count
        count += 1
        if count > MOST_WEIGHTS:
            raise ValueError(f"its configuration asks for more than {MOST_WEIGHTS:,} weights")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def _check_size(outline: nn.Module, files: Sequence[Path]) -> None:
    """Raise ValueError if a model would hold more numbers than its files do, and a few that are computed."""
    declared = sum(weight.numel() for weight in (*outline.parameters(), *outline.buffers()))
    held = 0
    for file in files:
        # By its header, which safetensors compares with its size.
        with safe_open(file, framework="pt") as tensors:
            held += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    if declared > held + COMPUTED:
        raise ValueError(f"its configuration asks for {declared:,} numbers and its weights hold {held:,}")
