"""What is audited: encode, decode, predict noise, schedule, conditioning; one module a model family."""

from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target, target_digest

__all__ = ["Target", "load_target", "target_digest"]
