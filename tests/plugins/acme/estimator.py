"""An estimator of influence: how much each latent dimension matters to the decoded image."""

import torch
from torch import Tensor

from ldm_scale.geometry.installed import LatentBatch


def gradient(batch: LatentBatch) -> Tensor:
    """|d |decode(z)|^2 / dz| of each sample, (n, D): one backward pass."""
    z = batch.z.clone().requires_grad_()
    (found,) = torch.autograd.grad(batch.decode(z).square().sum(), z)
    return found.abs().flatten(1)
