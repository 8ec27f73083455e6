"""Work in rows, as many at a time as memory holds."""

import pytest
import torch

from ldm_scale.device.budget import Budget
from ldm_scale.errors import RunError


def work_of(room: int, asked: list[int], values: torch.Tensor) -> object:
    """Squares of rows, by a device that has room for so many; how many were asked for is appended to `asked`."""

    def work(rows: slice) -> torch.Tensor:
        asked.append(rows.stop - rows.start)
        if asked[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return values[rows] ** 2

    return work


@pytest.mark.parametrize("count", [1, 7, 8, 9, 24])
def test_the_slices_are_all_rows_in_order(count: int) -> None:
    asked: list[int] = []
    values = torch.arange(float(count))
    results = Budget(8, "row").run(work_of(8, asked, values), count)
    assert torch.equal(torch.cat(results), values**2)
    assert asked == [8] * (count // 8) + [count % 8] * (count % 8 > 0)


def test_nothing_is_no_work() -> None:
    assert Budget(8, "row").run(lambda rows: 1 / 0, 0) == []


@pytest.mark.parametrize(
    ("room", "asked", "limit"),
    [
        (8, [16, 8, 8, 4], 8),
        (7, [16, 8, 4, 4, 4, 4, 4], 4),
        (1, [16, 8, 4, 2, *[1] * 20], 1),
    ],
)
def test_rows_that_do_not_fit_are_halved_and_the_rest_goes_on(room: int, asked: list[int], limit: int) -> None:
    found: list[int] = []
    values, budget = torch.arange(20.0), Budget(16, "row")
    assert torch.equal(torch.cat(budget.run(work_of(room, found, values), 20)), values**2)
    assert (found, budget.limit) == (asked, limit)


def test_the_smaller_size_is_remembered_and_half_of_what_was_asked_for() -> None:
    """Of a limit of 100 and 12 rows at hand, 12 did not fit: 6 is the next size, not 50."""
    asked: list[int] = []
    budget = Budget(100, "row")
    for _ in range(2):
        budget.run(work_of(6, asked, torch.arange(12.0)), 12)
    assert asked == [12, 6, 6, 6, 6]


def test_what_a_failed_call_computed_is_let_go_before_the_next() -> None:
    alive: list[bool] = []
    held: list[object] = []

    class Large:
        def __del__(self) -> None:
            held.clear()

    def work(rows: slice) -> None:
        alive.append(bool(held))
        large = Large()
        held.append(id(large))
        if rows.stop - rows.start > 1:
            raise torch.OutOfMemoryError

    Budget(2, "row").run(work, 2)
    assert alive == [False, False, False]


def test_one_row_that_does_not_fit_ends_the_run_by_name() -> None:
    with pytest.raises(RunError, match=r"^the device's memory does not hold one product with the decoder's Jacobian$"):
        Budget(4, "product with the decoder's Jacobian").run(work_of(0, [], torch.arange(4.0)), 4)


def test_other_errors_are_not_taken_for_it() -> None:
    budget = Budget(4, "row")
    with pytest.raises(ZeroDivisionError):
        budget.run(lambda rows: 1 / 0, 4)
    assert budget.limit == 4
