"""How every page is rendered."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ldm_scale.report.blind import tells_apart, told_by
from ldm_scale.report.labels import p_label, share_label, shortened


def make_environment() -> Environment:
    """The templates of this folder, with every value escaped as text: captions, keys and reasons are the data set's."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["rate"] = lambda value: f"{value:.3f}"
    environment.filters["percent"] = lambda value: f"{100 * value:.2f}"
    environment.filters["signed"] = lambda value: f"{value:+.3f}"
    environment.filters["p"] = p_label
    environment.filters["told_by"] = told_by
    environment.tests["told"] = tells_apart
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["share"] = share_label
    environment.filters["shortened"] = shortened
    return environment
