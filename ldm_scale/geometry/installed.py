"""Estimators of influence that other packages add by entry points."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from jaxtyping import Float
from torch import Tensor

from ldm_scale.config.installed import ESTIMATORS, INFLUENCES, installed, load_installed
from ldm_scale.errors import RunError, unknown_name
from ldm_scale.geometry.pullback import Decoder


@dataclass(frozen=True)
class LatentBatch:
    """Latents of n samples, and what an estimator may ask about them.

    Attributes:
        z: the latents.
        decode: the decoder, to be used with `Jacobian` or by itself.
        draw: draw(purpose, shape) are standard normal numbers, (n, *shape), keyed by sample and purpose.
        probes: products with J or J^T that a sample may take, as configured.
        memory: bytes that products computed at once may hold.
    """

    z: Float[Tensor, "n c h w"]
    decode: Decoder
    draw: Callable[[str, tuple[int, ...]], Tensor]
    probes: int
    memory: int


# From latents to influences, (n, D); a sample's own shall depend on nothing but it and its draws.
InfluenceEstimator = Callable[[LatentBatch], Tensor]


def find_estimator(name: str) -> InfluenceEstimator | None:
    """The installed estimator of influence of a name; None if it is one of ours.

    Raises:
        UsageError: There is none, or it cannot be loaded.
    """
    if name in INFLUENCES:
        return None
    others = installed(ESTIMATORS)
    if name not in others:
        raise unknown_name("estimator geometry.influence =", name, (*INFLUENCES, *others))
    return cast("InfluenceEstimator", load_installed(others[name]))


def estimate_influence(estimator: InfluenceEstimator, batch: LatentBatch) -> Float[Tensor, "n d"]:
    """What an installed estimator says, as float32.

    Raises:
        RunError: It says something of another shape.
    """
    found = estimator(batch)
    if found.shape != (wanted := batch.z.flatten(1).shape):
        raise RunError(f"geometry.influence: the estimator gives {tuple(found.shape)} numbers, not {tuple(wanted)}")
    return found.float()
