"""From a folder in diffusers' layout to a target; safetensors only."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel

from ldm_scale.errors import UsageError, one_line
from ldm_scale.storage import Location
from ldm_scale.targets.base import Target
from ldm_scale.targets.unconditional import UnconditionalTarget

# The autoencoder's folder has this name in diffusers' LDMPipeline, and that one everywhere else.
AUTOENCODERS = ("vqvae", "vae")


def _component(folder: Path, names: tuple[str, ...], what: str, config_name: str = "config.json") -> Path:
    found = next((folder / name for name in names if (folder / name / config_name).is_file()), None)
    if found is None:
        raise UsageError(f"target {folder} has no {what}: {names[-1]}/{config_name} is missing (diffusers' layout)")
    return found


def _read_class(component: Path) -> str:
    try:
        return str(json.loads((component / "config.json").read_text())["_class_name"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{component / 'config.json'} is not a diffusers configuration") from None


def _load_model(component: Path, kind: Any, what: str) -> Any:
    name = _read_class(component)
    if name != kind.__name__:
        raise UsageError(f"target {what} {component} is a {name}; {kind.__name__} is supported")
    if not list(component.glob("*.safetensors")):
        raise UsageError(f"target {what} {component} has no .safetensors file; other weight formats are not read")
    try:
        return kind.from_pretrained(
            component,
            use_safetensors=True,
            torch_dtype=torch.float32,
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
    except Exception as error:
        # diffusers raises many kinds; each means that these files do not make this model.
        raise UsageError(f"target {what} {component} cannot be loaded: {one_line(error)}") from error


def _components(address: str) -> tuple[Path, Path, Path]:
    location = Location.of(address)
    if not location.is_local:
        raise UsageError(f"target {address}: only local folders can be loaded")
    folder = Path(location.uri)
    if not folder.is_dir():
        raise UsageError(f"target folder {folder} does not exist")
    return (
        _component(folder, AUTOENCODERS, "autoencoder"),
        _component(folder, ("unet",), "U-Net"),
        _component(folder, ("scheduler",), "scheduler", "scheduler_config.json"),
    )


def load_target(address: str, device: str) -> Target:
    """The target of a folder in diffusers' layout, in float32 on a device, in eval mode.

    Raises UsageError where the folder, a component or its safetensors weights are missing or of another kind.
    """
    autoencoder, denoiser, schedule = _components(address)
    return UnconditionalTarget(
        _load_model(autoencoder, AutoencoderKL, "autoencoder").to(device),
        _load_model(denoiser, UNet2DModel, "U-Net").to(device),
        _load_schedule(schedule),
    )


def _load_schedule(component: Path) -> DDPMScheduler:
    """The schedule; betas do not depend on the sampler, and every diffusers sampler's configuration loads as this."""
    try:
        return DDPMScheduler.from_pretrained(component, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"target scheduler {component} cannot be loaded: {one_line(error)}") from error


def target_digest(address: str) -> str:
    """SHA-256 over the names and bytes of a target's configurations and weights.

    Raises UsageError where a component is missing.
    """
    digest = hashlib.sha256()
    for component in _components(address):
        for path in sorted(component.iterdir()):
            if path.suffix in (".json", ".safetensors"):
                digest.update(f"{component.name}/{path.name}:{Location.of(path).sha256()}\n".encode())
    return digest.hexdigest()
