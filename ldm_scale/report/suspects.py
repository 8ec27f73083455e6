"""What is said of suspects without held-out images: lines for the terminal, and one page."""

import pyarrow as pa

from ldm_scale.analysis.suspects import Suspects
from ldm_scale.files.ownership import Ownership
from ldm_scale.files.reductions import REPORT
from ldm_scale.files.storage import encode_table
from ldm_scale.report.environment import make_environment
from ldm_scale.report.figures import STYLES
from ldm_scale.report.labels import share_label
from ldm_scale.terminal import say

MEANING = (
    "Without held-out images this shows a difference between two models, and no p-value of membership: a model that "
    "was trained further on images of this kind may have lower statistics whether or not it saw these very ones."
)


def sentences(found: Suspects) -> list[str]:
    """What each attack says of all suspects, then what it means."""
    said = [
        f"{row.attack}: {row.lower:,} of {found.suspects:,} suspects have a lower statistic in the target than in the "
        f"reference ({share_label(row.share.value)}, {found.confidence:.0%} interval {share_label(row.share.low)} to "
        f"{share_label(row.share.high)}); median score {row.median:+.3f}"
        for row in found.rows
    ]
    left = [f"{found.left_out:,} suspects are left out, as one of the two rejected them"] if found.left_out else []
    return [*said, *left, MEANING]


def print_suspects(found: Suspects) -> None:
    """Print what is said."""
    for sentence in sentences(found):
        say(sentence)


def suspects_page(found: Suspects) -> bytes:
    """The same as one self-contained page; the same findings give the same bytes."""
    template = make_environment().get_template("suspects.html")
    return template.render(found=found, sentences=sentences(found)[:-1], meaning=MEANING, styles=STYLES).encode()


def write_suspects(owner: Ownership, found: Suspects, scores: pa.Table) -> None:
    """Write suspects.parquet (each one's score by each attack), report.html and suspects.json beside run.json.

    Raises:
        RunError: The run is another job's by now.
    """
    contents = {
        "suspects.parquet": encode_table(scores),
        REPORT: suspects_page(found),
        "suspects.json": found.model_dump_json(indent=1).encode(),
    }
    for name, content in contents.items():
        owner.check()
        (owner.claim.root / name).replace(content)
