"""Audits of what there is: members and held-out samples, or suspects alone beside a reference model."""

from ldm_scale.analysis.results import Results
from ldm_scale.analysis.suspects import Suspects
from ldm_scale.engine.audit import audit_inputs, audited
from ldm_scale.engine.relative import relate_suspects_of
from ldm_scale.inputs import Inputs, check_inputs, has_both_sides
from ldm_scale.report.suspects import write_suspects


def audit_samples(inputs: Inputs) -> Results | Suspects:
    """As `audit_inputs`; or, if there are no held-out samples, what can be said relative to the reference.

    Raises:
        UsageError: There are neither held-out samples nor a reference.
    """
    return audit_inputs(inputs) if has_both_sides(inputs) else _audit_suspects(inputs)


def _audit_suspects(inputs: Inputs) -> Suspects:
    config = inputs.config
    with audited(inputs) as (run, owner):
        with audited(check_inputs(config.of_reference())) as (reference, _):
            found, scores = relate_suspects_of(run, reference, config.analysis)
        write_suspects(owner, found, scores)
    return found
