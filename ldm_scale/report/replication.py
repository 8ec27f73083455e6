"""What a reproduction found, as tables for the terminal: the paper's row first."""

from collections.abc import Iterable, Iterator

from rich.table import Table

from ldm_scale.analysis.replication import OverSeeds, ReplicatedPaperRow, ReplicatedRow, Replication
from ldm_scale.analysis.results import RowName
from ldm_scale.report.table import LOG_WIDTH
from ldm_scale.terminal import say, say_table

ROWS = {"plain": "all", "lowest": "less lowest", "global": "less global", "random": "less random"}
ROWS |= {"highest": "less highest"}


def _interval(low: float | None, high: float | None, sign: str) -> str:
    return "" if low is None else f" ({low:{sign}.3f} to {high:{sign}.3f})"


def _cell(found: OverSeeds | None, sign: str = "") -> str:
    return f"{found.mean:{sign}.3f}{_interval(found.low, found.high, sign)}" if found else ""


def _each(found: OverSeeds) -> str:
    """The value of each seed, a line each."""
    pairs = zip(found.seeds, found.within, strict=True)
    return "\n".join(f"{value:+.3f}{_interval(low, high, '+')}" for value, (low, high) in pairs)


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    """A table whose rows begin with attack, what was attacked, and the dimensions."""
    table = Table("attack", "latents", "dimensions", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    before = None
    for row in rows:
        if before not in (None, row[:2]):
            table.add_section()
        before = row[:2]
        table.add_row(*row)
    return table


def _metrics(rows: Iterable[ReplicatedRow | ReplicatedPaperRow]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        metrics = row.metrics
        cells = (_cell(value) for value in (metrics.auroc, metrics.asr, metrics.paper_tpr_at_1pct_fpr))
        yield (row.attack, row.latent, ROWS[row.row], *cells)


def _changes(found: Replication) -> Iterator[tuple[str, ...]]:
    for row in found.rows:
        plain, random = row.minus_plain, row.minus_random
        if plain is not None:
            over = (_cell(plain.auroc, "+"), _cell(random.auroc if random else None, "+"))
            yield (row.attack, row.latent, ROWS[row.row], _each(plain.auroc), *over)


def _quartiles(found: Replication) -> Iterator[tuple[str, ...]]:
    groups: dict[tuple[str, str, RowName], list[str]] = {}
    for group in found.quartiles:
        groups.setdefault((group.attack, group.latent, group.row), []).append(_cell(group.auroc))
    for (attack, latent, row), cells in groups.items():
        yield (attack, latent, ROWS[row], *cells)


def print_replication(found: Replication) -> None:
    """Print the paper's row and ours by its rules; then ours by our rules, how dropping changed it, and quartiles."""
    seeds = ", ".join(map(str, found.config["seeds"]))
    title = f"{found.members} members, {found.heldout} held-out; seeds {seeds}; 40% of the dimensions dropped"
    measures = ("AUROC", "ASR", "TPR@1%FPR, paper's")
    paper = [("SimA, paper", "mode", ROWS[name], *map("{:.3f}".format, found.paper[name])) for name in found.paper]
    ours = _metrics(found.by_papers_rules)
    say_table(_table(f"{title}; by the paper's rules", measures, [*paper, *ours]), LOG_WIDTH)
    say_table(_table("by ours", measures, _metrics(found.rows)), LOG_WIDTH)
    columns = ("minus all, each seed", "minus all", "minus less random")
    say_table(_table("AUROC, paired", columns, _changes(found)), LOG_WIDTH)
    title = "AUROC by quartile of distortion, the least distorted first"
    say_table(_table(title, ("1", "2", "3", "4"), _quartiles(found)), LOG_WIDTH)
    say("by the paper's rules: each metric at its best t, on all samples, which is optimistic")
    say(
        f"by ours: t chosen on one half, metrics on the other; {found.confidence:.0%} intervals: of each seed over its "
        "samples, else of the mean over seeds (Student's t)"
    )
