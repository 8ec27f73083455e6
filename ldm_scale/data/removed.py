"""What the guard against near-duplicates removed: a list to read by program, and a page to look at."""

import base64
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import TypeAdapter

from ldm_scale.config.data import PackConfig
from ldm_scale.data.choose import Removed, decode
from ldm_scale.data.images import encode_png
from ldm_scale.data.sources.items import Item
from ldm_scale.data.work import RunTasks
from ldm_scale.files.storage import Location

LIST = "duplicates.json"
PAGE = "duplicates.html"
# Pairs on the page, those that correlate least; a task makes the pictures of a few, at most this many pixels a side.
SHOWN = 120
A_TASK = 8
SIDE = 64


def _pictures(pairs: Sequence[tuple[Item, Item]], max_pixels: int) -> list[tuple[str, str]]:
    """Both images of each pair, small, as data URIs."""

    def picture(item: Item) -> str:
        image = decode(item, max_pixels)
        image.thumbnail((SIDE, SIDE))
        return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()

    return [(picture(kept), picture(removed)) for kept, removed in pairs]


def write_removed(
    out: Location, removed: Sequence[Removed], items: Mapping[str, Item], config: PackConfig, run: RunTasks
) -> None:
    """Write every removed image with the kept one to duplicates.json, and the doubtful pairs to duplicates.html.

    Raises:
        RunError: An image that was read before cannot be read any more.
    """
    # Those to be doubted most: the lowest correlations first, variants and equals last.
    shown = sorted(removed, key=lambda one: 2.0 if one.correlation is None else one.correlation)[:SHOWN]
    pairs = [(items[one.kept], items[one.key]) for one in shown]
    tasks = [pairs[start : start + A_TASK] for start in range(0, len(pairs), A_TASK)]
    draw = functools.partial(_pictures, max_pixels=config.max_pixels)
    pictures = [pictures for drawn in run(draw, tasks, f"{PAGE}, {A_TASK} pairs a task") for pictures in drawn]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("removed.html").render(
        lowest=config.near_duplicates, total=len(removed), pairs=list(zip(shown, pictures, strict=True))
    )
    (out / LIST).replace(TypeAdapter(list[Removed]).dump_json(list(removed), indent=1))
    (out / PAGE).replace(page.encode())
