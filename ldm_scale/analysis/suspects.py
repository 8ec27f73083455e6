"""suspects.json: what is said of suspects without held-out images, every key documented.

No p-value is among it: without images that the target surely never saw, nothing says how it would treat such.
"""

from typing import Literal

from pydantic import Field

from ldm_scale.analysis.results import Estimate, Number
from ldm_scale.config.base import Record


class SuspectRow(Record):
    """What one attack says of all suspects together."""

    attack: str
    lower: int = Field(description="suspects whose score is above 0: their statistic is lower in the target")
    share: Estimate = Field(description="of all suspects; exact binomial interval")
    median: Number = Field(description="of the scores")


class SuspectScore(Record):
    """A suspect of those whose statistic is lower in the target than in the reference by most."""

    sample_id: str
    attack: str
    score: Number = Field(
        description="mean over the timesteps of the log statistic of the reference minus that of the target"
    )


class Suspects(Record):
    """All that is said of suspects by their scores relative to a reference model."""

    format: Literal[1] = 1
    fingerprint: str = Field(description="of everything the target's rows depend on")
    target: str = Field(description="SHA-256 of the target")
    reference_fingerprint: str = Field(description="of everything the reference's rows depend on")
    reference: str = Field(description="SHA-256 of the reference model")
    suspects: int = Field(description="suspects that both have a row of")
    left_out: int = Field(description="suspects that one of the two rejected")
    confidence: Number
    rows: tuple[SuspectRow, ...] = Field(description="one an attack")
    highest: tuple[SuspectScore, ...] = Field(description="ten suspects, by the first attack; suspects.parquet has all")
