"""Estimators of influence that other packages add by entry points."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ldm_scale.config.installed import ESTIMATORS, INFLUENCES, find_installed, load_installed, spell
from ldm_scale.errors import RunError
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

    It raises RunError if what it says is of another shape than latents.
    """
    point = find_installed(ESTIMATORS, name, "estimator geometry.influence =", INFLUENCES)
    if point is None:
        return None
    estimator = load_installed(point, callable, "function of a LatentBatch")

    def checked(batch: LatentBatch) -> Float[Tensor, "n d"]:
        found = estimator(batch)
        shape, wanted = getattr(found, "shape", ()), batch.z.flatten(1).shape
        if shape != wanted:
            raise RunError(f"{spell(point)} gives {tuple(shape)} influences, not {tuple(wanted)}")
        return found.float()

    return checked
