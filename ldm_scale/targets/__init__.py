"""What is audited: encode, decode, predict noise, schedule, conditioning; one module a model family."""

from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target, target_digest
from ldm_scale.targets.weights import fetch_weights

__all__ = ["Target", "fetch_weights", "load_target", "target_digest"]
