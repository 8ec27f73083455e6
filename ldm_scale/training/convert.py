"""From the checkpoints of the paper's authors to a target's folder."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from diffusers import ModelMixin
from pyarrow import fs as pafs

from ldm_scale.config.convert import ConvertConfig
from ldm_scale.errors import UsageError, one_line
from ldm_scale.files.storage import Location
from ldm_scale.targets.autoencoder import KLAutoencoder, downsampling
from ldm_scale.targets.checkpoint import read_checkpoint
from ldm_scale.targets.fetch import AUTOENCODER, fetch
from ldm_scale.targets.intake import OWN
from ldm_scale.targets.load import load_autoencoder, load_target
from ldm_scale.targets.trial import describe
from ldm_scale.training.conditions import Unconditional
from ldm_scale.training.models import Models
from ldm_scale.training.networks import build_schedule, check_halved
from ldm_scale.training.published import Misfit, StateDict, find_autoencoder, find_unet
from ldm_scale.training.saving import save_target

T = TypeVar("T")
# Of checkpoints.
SUFFIXES = (".pt", ".pth")


def convert(config: ConvertConfig) -> str:
    """Write a target's folder from checkpoints; what it is, in words.

    Raises:
        UsageError: A file is no such checkpoint, the networks do not belong together, or the folder is not empty.
    """
    out = Location.of(config.out)
    out.check_new("--out")
    autoencoder, copied = _autoencoder(config)
    unet, betas = _unet(config, autoencoder)
    models = Models(autoencoder, unet, build_schedule(*betas), Unconditional(), copied)
    files = {"unet": config.unet} if copied else {"autoencoder": config.autoencoder, "unet": config.unet}
    sources = {what: {"file": Path(file).name, "sha256": Location.of(file).sha256()} for what, file in files.items()}
    with TemporaryDirectory(prefix=OWN) as folder:
        save_target(Path(folder), models, half=False, record={"converted": sources})
        target = load_target(folder, "cpu")
        out.copy_from(pafs.LocalFileSystem(), folder)
    return describe(target)


def _read(address: str, what: str, find: Callable[[StateDict], T]) -> T:
    weights = read_checkpoint(Path(address))
    try:
        return find(weights)
    except (Misfit, ValueError, RuntimeError) as error:
        # What diffusers and torch raise of sizes that no network has is a misfit, too.
        raise UsageError(f"checkpoint {address} holds no {what} of the paper's authors: {one_line(error)}") from None


def _autoencoder(config: ConvertConfig) -> tuple[KLAutoencoder, dict[str, Path]]:
    """The autoencoder, and the folder that is copied if it is a pretrained one."""
    path = Path(config.autoencoder)
    # A name of this kind that is no file is a slip, and would be asked of the hub.
    if path.is_file() or path.suffix in SUFFIXES:
        return _read(config.autoencoder, "autoencoder", lambda weights: find_autoencoder(weights, config.size)), {}
    folder = fetch(config.autoencoder, AUTOENCODER).path
    return load_autoencoder(folder, "meta"), {"vqvae": folder}


def _unet(config: ConvertConfig, autoencoder: Any) -> tuple[ModelMixin, tuple[float, float]]:
    factor = downsampling(autoencoder)
    unet, betas = _read(config.unet, "U-Net", lambda weights: find_unet(weights, config.size // factor))
    check_halved(config.size, factor, len(unet.config.block_out_channels))
    return unet, betas
