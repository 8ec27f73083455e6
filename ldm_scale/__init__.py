"""How much did a latent diffusion model memorise its training images, which images, and where in the latent space?"""

from importlib import import_module
from typing import Any

_HOMES = {
    "AuditConfig": "ldm_scale.config.audit",
    "PackConfig": "ldm_scale.config.data",
    "TrainConfig": "ldm_scale.config.train",
    "Comparison": "ldm_scale.analysis.comparison",
    "Results": "ldm_scale.analysis.results",
    "Run": "ldm_scale.notebook.run",
    "RunError": "ldm_scale.errors",
    "UsageError": "ldm_scale.errors",
    "compare": "ldm_scale.notebook.compare",
    "pack": "ldm_scale.data.pack",
    "run_pack": "ldm_scale.engine.pack",
    "run_audit": "ldm_scale.engine.audit",
    "run_training": "ldm_scale.engine.train",
    "score": "ldm_scale.notebook.score",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # Found on first use, so that `ldm-scale --help` need not wait for Ray and torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
