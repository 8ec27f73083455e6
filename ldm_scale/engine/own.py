"""A data owner's question in one command: pack, check and audit plain folders."""

from ldm_scale.analysis.results import Results
from ldm_scale.analysis.suspects import Suspects
from ldm_scale.config.own import OwnConfig
from ldm_scale.engine.pack import run_pack
from ldm_scale.engine.session import session
from ldm_scale.engine.suspects import audit_samples
from ldm_scale.engine.validate import run_validation
from ldm_scale.errors import RunError
from ldm_scale.inputs import check_inputs, check_reference
from ldm_scale.targets.weights import fetch_weights
from ldm_scale.terminal import say


def run_own(config: OwnConfig) -> Results | Suspects:
    """Whether a model was trained on some images, by comparison with others that it cannot have seen.

    Without such images, what can be said by comparison with another model.

    Raises:
        UsageError: A folder or the model cannot be used.
        RunError: Something is wrong with the images, or the audit could not be finished.
    """
    # What cannot be audited is said before anything is packed.
    target = fetch_weights(config.target, outline=True).load("meta")
    if config.reference is not None:
        check_reference(target, fetch_weights(config.reference, outline=True).load("meta"))
    with session():
        manifest = run_pack(config.pack())
        say(f"{config.pack().out}: {manifest.samples} images; {manifest.split}")
        found = run_validation(config.validate_inputs())
        for line in found.facts:
            say(line)
        if found.problems:
            raise RunError(f"{found.problems[0]}; {len(found.problems)} problems in all (`ldm-scale validate`)")
        return audit_samples(check_inputs(config.audit()))
