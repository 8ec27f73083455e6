"""Progress lines: what they say of a run, and when they are said."""

import pytest

from ldm_scale.engine import progress
from ldm_scale.engine.progress import Progress, reported
from ldm_scale.report.labels import duration


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_read_well(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def made(*times: float) -> Progress:
    """Of 30 samples in two shards, 4 of them done, with a clock that says these times, then stops."""
    clock = iter(times)
    return Progress({"a": 10, "b": 20}, {"a": 4}, 1, lambda: next(clock))


def test_a_line_says_how_far_the_run_is_and_when_it_will_have_ended() -> None:
    run = made(100, 110)
    run.add("a", rows=5, rejects=1)
    run.add("b", rows=4, rejects=0)
    assert run.line(3) == (
        "14 of 30 samples, 1 of 2 shards, 1.0 samples/s, 16 left, 16 s to go, 2 rejected, 3 auditors"
    )


def test_large_numbers_are_written_with_commas() -> None:
    clock = iter((0, 10))
    run = Progress({"a": 50_000}, {}, 0, lambda: next(clock))
    run.add("a", rows=13_000, rejects=1_000)
    assert run.line(8) == (
        "14,000 of 50,000 samples, 0 of 1 shards, 1,400.0 samples/s, 36,000 left, 26 s to go, 1,000 rejected, "
        "8 auditors"
    )


def test_before_anything_comes_no_end_is_promised() -> None:
    assert made(0, 10).line(0) == (
        "4 of 30 samples, 0 of 2 shards, 0.0 samples/s, 26 left, none came lately, 1 rejected, 0 auditors"
    )


def test_the_rate_is_that_of_the_last_lines_not_of_the_slow_start() -> None:
    run = made(0, *range(100, 108))
    for _ in range(7):
        run.add("b", rows=1, rejects=0)
        last = run.line(1)
    # Six lines before this one are remembered: of 100 s to 105 s. From one of them to the next, a second and a sample.
    assert "1.0 samples/s, 19 left, 19 s to go" in last


def test_lines_are_said_as_time_goes_by_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "OFTEN", 0.01)
    monkeypatch.setattr(progress, "SELDOM", 0.02)
    run = Progress({"a": 2}, {}, 0, iter(range(10_000)).__next__)
    sizes = iter(range(10_000))
    reached = progress.threading.Event()

    def pool_size() -> int:
        if (size := next(sizes)) == 3:
            reached.set()
        return size

    with reported(run, pool_size):
        assert reached.wait(60)
        run.add("a", rows=2, rejects=0)
    lines = capsys.readouterr().out.splitlines()
    # No auditor at first, then some; no line of nothing beside.
    assert lines[:2] == [progress.WAITED_FOR[False], progress.WAITED_FOR[True]]
    assert len(lines) > 2
    assert all(line.startswith("2 of 2 samples, 1 of 1 shards") for line in lines[2:])
    assert not progress.threading.Event().wait(0.1)
    assert capsys.readouterr().out == ""
