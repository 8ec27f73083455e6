"""How the authors of arXiv 2511.20592 audited each data set, and what differs here all the same.

As their public scripts have it. Their rules of metrics (a best t for each, FPR strictly below 1%) are for the analysis
of every run, and no part of this.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ldm_scale.config.values import flatten, spell


@dataclass(frozen=True)
class Procedure:
    """The authors' audit of one data set.

    Attributes:
        recipe: values of the audit's options. All that their scripts decide is named, defaults too.
        departures: what differs from their scripts all the same, a line each.
    """

    recipe: dict[str, Any]
    departures: tuple[str, ...]

    def overridden(self, attacks: dict[str, dict[str, Any]], config: dict[str, Any]) -> Iterator[str]:
        """Options of the recipe that an audit gives another value, a line each.

        attacks: the recipe's. config: the audit's values. In both, attacks have all their options.
        """
        ran = {name: options for name, options in attacks.items() if name in config["attacks"]}
        yield from (f"attacks: {name}, which theirs has, is not run" for name in attacks if name not in ran)
        given = flatten(config)
        for key, value in flatten(self.recipe | {"attacks": ran}).items():
            if given[key] != value:
                ours, theirs = ("unset" if one is None else spell(one) for one in (given[key], value))
                yield f"{key} is {ours}, theirs {theirs}"


DRAWS = (
    "Random draws (latents, captions, probes, noise, the random mask) are keyed by seed and sample: others than "
    "theirs, of the same distributions."
)
BIAS = (
    "The mean bias of the logarithm of an influence from few probes is taken off, theirs is not: the same constant in "
    "every dimension, so that masks are the same."
)
SIMA_ALONE = (
    "Their published script of this data set runs SimA alone; Loss, PIA and SecMI are as in that of Stable Diffusion, "
    "Loss and PIA at SimA's timesteps."
)
SVD = (
    "Distortion is of the singular values that a Krylov space of products with the Jacobian has, as many as each "
    "sample needs; theirs is of a randomised SVD of 30 iterations on the Jacobian itself, without more draws."
)
SVD_OF_DIFFERENCES = (
    "Distortion is of the singular values that a Krylov space of exact products with the Jacobian has, as many as each "
    "sample needs; theirs is of a randomised SVD of 10 iterations on finite differences of step 0.001."
)
TEN_A_CLASS = "The shards say who is a member; theirs are ten images a class of train, and ten of val held out."
SLQ = (
    "Distortion is stochastic Lanczos quadrature, 16 probes of 30 steps; that of their code, whose recurrence drops a "
    "term and which decodes the scaled latent, is not copied."
)
LAST_BATCH = "Every sample has its own mask; in their last batch, which is shorter, samples have the masks of others."
SECMI_LDM = (
    "SecMI-LDM, which theirs has at t = 140 alone, is no attack of its own: metrics.parquet has SecMI at t = 140."
)

# Of models trained from scratch, and of Stable Diffusion; SecMI ends a step before the others.
SCRATCH = {name: {"timesteps": "0:300:10"} for name in ("sima", "loss", "pia")} | {"secmi": {"timesteps": "0:190:10"}}
STABLE_DIFFUSION = {name: {"timesteps": "0:200:10"} for name in ("sima", "loss", "pia")} | {
    "secmi": {"timesteps": "0:190:10"},
    "pfami_published": {"timesteps": "0:500:50"},
}
GEOMETRY = {"influence": "hutchinson", "precision": "float32", "distortion_share": 1.0, "latent": "mode"}
COMMON = {"conditioning": "sample", "precision": "float32", "analysis": {"drop": 0.4}}


def _from_scratch(probes: int, rank: int, **images: Any) -> dict[str, Any]:
    return {
        **COMMON,
        "attacks": SCRATCH,
        "latent": "mode",
        "images": {"size": None, "crop": None, **images},
        "geometry": {**GEOMETRY, "probes": probes, "distortion": "truncated", "rank": rank},
    }


def _stable_diffusion(captions: str) -> dict[str, Any]:
    return {
        **COMMON,
        "attacks": STABLE_DIFFUSION,
        "latent": "sample",
        "captions": captions,
        "images": {"size": None, "crop": None, "filter": "bilinear"},
        "geometry": {**GEOMETRY, "probes": 8, "distortion": "slq"},
    }


PUBLISHED = {
    "cifar10": Procedure(_from_scratch(16, 50), (DRAWS, BIAS, SIMA_ALONE, SVD)),
    "celeba": Procedure(_from_scratch(16, 50, crop=140, filter="bilinear"), (DRAWS, BIAS, SIMA_ALONE, SVD)),
    "imagenet": Procedure(
        _from_scratch(8, 20, filter="bicubic"), (DRAWS, BIAS, SIMA_ALONE, SVD_OF_DIFFERENCES, TEN_A_CLASS)
    ),
    # An image has one caption; of the others' five, a random one.
    "pokemon": Procedure(_stable_diffusion("first"), (DRAWS, BIAS, SLQ, SECMI_LDM)),
    "coco": Procedure(_stable_diffusion("random"), (DRAWS, BIAS, SLQ, SECMI_LDM, LAST_BATCH)),
    "flickr": Procedure(_stable_diffusion("random"), (DRAWS, BIAS, SLQ, SECMI_LDM, LAST_BATCH)),
}
