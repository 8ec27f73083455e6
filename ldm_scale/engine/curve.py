"""The audits of the targets that a training kept on its way."""

from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.config.train import TrainConfig
from ldm_scale.engine.audit import run_audit
from ldm_scale.engine.session import session
from ldm_scale.files.storage import Location
from ldm_scale.terminal import say

# The name of the run of the trained target itself.
LAST = "last"


def audit_curve(config: TrainConfig) -> list[str]:
    """Audit every target that a training kept, and its last one; their runs, the first one first.

    Raises:
        UsageError: The shards cannot be audited, as they hold members only, say.
        RunError: An audit could not be finished.
    """
    runs = []
    with session():
        kept = [(folder.name, str(folder)) for folder in Location.of(f"{config.curve}/targets").folders()]
        for name, target in (*kept, (LAST, config.out)):
            say(f"audit of the target of step {name}" if name != LAST else "audit of the last target")
            runs.append(f"{config.curve}/runs/{name}")
            values = {
                "shards": config.shards,
                "manifest": config.manifest,
                "target": target,
                "out": runs[-1],
                "latent": config.denoiser.latent,
                "captions": config.captions,
                "seed": config.seed,
                "images": config.images.model_dump(),
                "compute": {"device": config.device},
            }
            run_audit(build(AuditConfig, values))
    return runs
