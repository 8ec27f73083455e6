"""A few images scored by one attack, in this process: no shards, no Ray."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from PIL import Image

from ldm_scale.analysis.scores import Mask, averaged, mask_score
from ldm_scale.attacks.registry import make_attack
from ldm_scale.auditor import AuditedBatch, Auditor
from ldm_scale.config.audit import AuditConfig, dropped_bins, name_attacks
from ldm_scale.config.base import build
from ldm_scale.data.images import BadImage, open_image, preprocess
from ldm_scale.errors import UsageError
from ldm_scale.inputs import check_fit
from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target
from ldm_scale.targets.weights import fetch_weights

# Images that the models take at a time.
BATCH = 32


def score(
    target: Target | DiffusionPipeline | str | Path,
    images: Sequence[Image.Image | str | Path],
    attack: str | Mapping[str, Mapping[str, Any]] = "sima",
    mask: float = 0.0,
    *,
    captions: Sequence[str | None] | None = None,
    labels: Sequence[int | None] | None = None,
    names: Sequence[str] | None = None,
    device: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """The scores of some images by one attack on a target; higher means member.

    An image alone says little: compare with images that were surely not trained on. A score depends on the image, its
    caption or class, its name and the options, not on the images beside it.

    Args:
        target: one that is loaded, a pipeline of diffusers, or the address of either: folder, s3:// or hub id.
        images: pictures, or files of pictures.
        attack: its name, or {name: its options}, such as {"sima": {"timesteps": "0:300:30"}}.
        mask: share of the dimensions to leave out, those of lowest influence; a multiple of 0.05.
        captions: one an image; none is the empty prompt.
        labels: class of each image, likewise.
        names: keys of the images' random draws; sample ids give the draws of an audit.
        device: cpu or cuda; by default cuda if there is one. A loaded target stays where it is.
        options: others of an audit, as in YAML: latent="sample", seed=1, geometry={"probes": 8}, ...

    Returns:
        A line an image and timestep: name, attack, timestep (missing: the mean over all), share (left out), score.

    Raises:
        UsageError: An argument or an image cannot be used.
    """
    names = [str(number) for number in range(len(images))] if names is None else list(names)
    captions, labels = captions or [None] * len(images), labels or [None] * len(images)
    for what, given in (("names", names), ("captions", captions), ("labels", labels)):
        if not len(images) or len(given) != len(images):
            raise UsageError(f"{what}: {len(given)} for {len(images)} images")
    config = _configured(attack, mask, options)
    name, made = next((name, make_attack(name, options)) for name, options in config.attacks.items())
    loaded = as_target(target, device)
    check_fit(config, loaded, {name: made})
    auditor = Auditor(loaded, config)
    for key, caption, label in zip(names, captions, labels, strict=True):
        if reason := auditor.refusal(caption or "", label):
            raise UsageError(f"image {key}: {reason}")
    pixels = np.stack([_pixels(image, key, config, loaded) for image, key in zip(images, names, strict=True)])
    found = []
    for start in range(0, len(images), BATCH):
        some = slice(start, start + BATCH)
        # No caption is the empty prompt.
        texts = [[caption or ""] for caption in captions[some]]
        batch = auditor.audit(pixels[some], names[some], texts, labels[some])
        found.append(_scores(batch, name, mask, config, names[some]))
    timesteps = [None] if name in config.analysis.average else made.timesteps
    return pd.DataFrame(
        {
            "name": np.repeat(names, len(timesteps)),
            "attack": name,
            "timestep": pd.array([*timesteps] * len(names), dtype="Int64"),
            "share": mask,
            "score": np.concatenate(found).ravel(),
        }
    )


def as_target(target: Target | DiffusionPipeline | str | Path, device: str | None = None) -> Target:
    """What an audit computes with: a target as it is, or one loaded from a pipeline or an address, in float32.

    A pipeline is not changed: its parts are saved to a temporary folder, from which they are loaded like any target.

    Raises:
        UsageError: It is of no supported kind, or cannot be loaded.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(target, DiffusionPipeline):
        with TemporaryDirectory() as folder:
            target.save_pretrained(folder, safe_serialization=True)
            return load_target(folder, device)
    if isinstance(target, str | os.PathLike):
        return fetch_weights(os.fspath(target)).load(device)
    if isinstance(target, Target):
        return target
    raise UsageError(f"target: a {type(target).__name__} is no target, no pipeline of diffusers and no address")


def _configured(attack: str | Mapping[str, Mapping[str, Any]], mask: float, options: Mapping[str, Any]) -> AuditConfig:
    attacks = name_attacks(attack)
    if len(attacks) != 1:
        raise UsageError("attack: give one")
    if not 0 <= mask < 1:
        raise UsageError(f"mask = {mask} must be at least 0 and below 1")
    geometry = {"influence": "hutchinson", **options.get("geometry", {}), "distortion": "off"}
    if not mask:
        # A sum over all dimensions knows no order: none need be measured well.
        geometry |= {"influence": "hutchinson", "probes": 1}
    if geometry["influence"] in ("pooled", "off"):
        raise UsageError(f"geometry.influence {geometry['influence']} needs a calibration set, which an audit measures")
    unused = dict.fromkeys(("out", "shards", "target"), "unused")
    config = build(AuditConfig, {**unused, **options, "attacks": attacks, "geometry": geometry})
    dropped_bins(mask, config.masks.bins)
    return config


def _pixels(image: Image.Image | str | Path, name: str, config: AuditConfig, target: Target) -> np.ndarray:
    try:
        if not isinstance(image, Image.Image):
            image = open_image(Path(image).read_bytes(), config.images.max_pixels)
        return preprocess(image, config.images, target.image_size)
    except (BadImage, OSError) as error:
        raise UsageError(f"image {name}: {error}") from None


def _scores(
    batch: AuditedBatch, attack: str, mask: float, config: AuditConfig, names: Sequence[str]
) -> Float[np.ndarray, "n t"]:
    if broken := next(((name, fault) for name, fault in zip(names, batch.faults, strict=True) if fault), None):
        raise UsageError(f"image {broken[0]}: {broken[1]} has numbers that are not finite")
    spectra, dropped = batch.spectra[attack], dropped_bins(mask, config.masks.bins)
    if attack in config.analysis.average:
        spectra = averaged(spectra)
    return np.stack([mask_score(step, Mask.LOWEST, dropped) for step in spectra.transpose(1, 0, 2)], axis=1)
