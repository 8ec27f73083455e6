"""What a sample of an audit costs: denoiser evaluations, and products with the decoder's Jacobian. Torch only."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import Attack, Evaluations
from ldm_scale.auditor import SLQ_PROBES
from ldm_scale.config.audit import GeometryConfig, distortion_estimator
from ldm_scale.geometry.slq import slq_products
from ldm_scale.geometry.truncated import usual_steps


def denoiser_evaluations(
    attacks: Iterable[Attack], alphas_cumprod: Float[Tensor, " steps"], latent_shape: tuple[int, int, int]
) -> int:
    """Denoiser evaluations of one sample for these attacks together, counted by running them on a denoiser of ones.

    >>> from ldm_scale.attacks.pia import PIA
    >>> from ldm_scale.attacks.sima import SimA
    >>> denoiser_evaluations([SimA((0, 10)), PIA((10, 20))], torch.full((21,), 0.5), (4, 8, 8))  # t = 0 is shared
    4
    """
    latents = torch.ones(1, *latent_shape)
    evaluations = Evaluations(latents, alphas_cumprod, lambda x, t: torch.ones_like(x), lambda purpose: latents)
    for attack in attacks:
        attack.vectors(evaluations)
    return evaluations.made


def decoder_products(config: GeometryConfig, dimensions: int) -> float:
    """Products with J or J^T for influence and distortion of one sample, the mean over all samples."""
    return influence_products(config, dimensions) + config.distortion_share * distortion_products(config, dimensions)


def influence_products(config: GeometryConfig, dimensions: int) -> int:
    """Products for the influences of one sample."""
    return {"exact": dimensions, "off": 0}.get(config.influence, config.probes)


def distortion_products(config: GeometryConfig, dimensions: int) -> int:
    """Products for one sample whose distortion is measured; 0 if its exact influences gave its metric already.

    Truncated distortion ends by itself: about so many.
    """
    match distortion_estimator(config, dimensions):
        case "truncated":
            return 2 * usual_steps(dimensions, config.rank)
        case "slq":
            return slq_products(dimensions, SLQ_PROBES)
        case "exact" if config.influence != "exact":
            return dimensions
    return 0
