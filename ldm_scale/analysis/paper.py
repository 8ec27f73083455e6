"""The paper's own table: each metric at the best timestep for it, on the very samples that it is reported of."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ldm_scale.analysis.groups import Group
from ldm_scale.analysis.metrics import NAMES
from ldm_scale.analysis.results import PaperCell, PaperGroup, PaperRow, PaperRowName
from ldm_scale.analysis.scan import Scan


def best_cell(values: Float[np.ndarray, " t"], timesteps: Sequence[int | None]) -> PaperCell:
    """The highest of a metric's values over timesteps, and the first timestep that reaches it.

    >>> best_cell(np.array([0.5, 0.75, 0.75]), (0, 10, 20))
    PaperCell(value=0.75, timestep=10)
    """
    step = int(values.argmax())
    return PaperCell(value=values[step], timestep=timesteps[step])


def paper_row(
    attack: str,
    row: PaperRowName,
    found: Scan,
    dropped: int,
    timesteps: Sequence[int | None],
    groups: Sequence[Group],
) -> PaperRow:
    """One line of the paper's table.

    Args:
        attack: its name.
        row: what the line leaves out.
        found: the scan of its mask, over all timesteps and with these groups.
        dropped: how many bins it leaves out.
        timesteps: of the attack.
        groups: of samples of like distortion.
    """
    metrics = dict(zip(NAMES, found.grid[dropped].T, strict=True))
    by_group = zip(groups, found.groups[dropped].T, strict=True)
    return PaperRow(
        attack=attack,
        row=row,
        drop=dropped / len(found.grid),
        auroc=best_cell(metrics["auroc"], timesteps),
        asr=best_cell(metrics["asr"], timesteps),
        tpr_at_1pct_fpr=best_cell(found.strict[dropped], timesteps),
        by_distortion=tuple(
            PaperGroup(
                groups=group.groups,
                group=group.number,
                auroc=None if np.isnan(values).any() else best_cell(values, timesteps),
            )
            for group, values in by_group
        ),
    )
