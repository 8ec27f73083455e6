"""What a sample of an audit costs: denoiser evaluations, and products with the decoder's Jacobian. Torch only."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import Attack, Evaluations
from ldm_scale.auditor import ESTIMATORS, distortion_estimator
from ldm_scale.config import GeometryConfig
from ldm_scale.geometry.slq import slq_products
from ldm_scale.geometry.truncated import truncated_products

PRODUCTS = {"truncated": truncated_products, "slq": slq_products}


def denoiser_evaluations(
    attacks: Iterable[Attack], alphas_cumprod: Float[Tensor, " steps"], latent_shape: tuple[int, int, int]
) -> int:
    """How often these attacks together ask the denoiser for one sample, counted on a denoiser that only counts."""
    asked = 0

    def denoise(x: Tensor, t: int) -> Tensor:
        nonlocal asked
        asked += len(x)
        return torch.ones_like(x)

    latents = torch.ones(1, *latent_shape)
    evaluations = Evaluations(latents, alphas_cumprod, denoise, lambda purpose: latents)
    for attack in attacks:
        attack.vectors(evaluations)
    return asked


def decoder_products(config: GeometryConfig, dimensions: int) -> float:
    """How many products with J or J^T influence and distortion of one sample take, the mean over all samples."""
    exact = config.influence == "exact"
    influence = dimensions if exact else config.probes
    return influence + config.distortion_share * _distortion_products(config, dimensions, known=exact)


def _distortion_products(config: GeometryConfig, dimensions: int, known: bool) -> int:
    """Of a sample whose distortion is measured; none where its exact metric is known already."""
    estimator = distortion_estimator(config, dimensions)
    if estimator in PRODUCTS:
        draws, _ = ESTIMATORS[estimator]
        return PRODUCTS[estimator](dimensions, draws)
    return dimensions if estimator == "exact" and not known else 0
