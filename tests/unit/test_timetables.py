"""When schedules fire: by the clocks of their time zones, also where these are put forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from runengine_server.domain.schedule import Timetable, wrong_with_cron

BERLIN = "Europe/Berlin"


def firings(cron: str, start: str, number: int) -> list[str]:
    """As the clocks in Berlin show them, from a moment in UTC on."""
    timetable = Timetable(cron, BERLIN)
    first = timetable.after(datetime.fromisoformat(start).replace(tzinfo=UTC))
    found = [each.astimezone(ZoneInfo(BERLIN)) for each in timetable.upcoming(first, number)]
    return [f"{each:%d %H:%M %z}" for each in found]


# On 29 March 2026 at 2:00 the clocks are put to 3:00, on 25 October at 3:00 to 2:00.
@pytest.mark.parametrize(
    ("cron", "start", "expected"),
    [
        ("30 2 * * *", "2026-03-28", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        ("30 2 * * *", "2026-10-24", ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
        ("0 * * * *", "2026-03-29T00:30", ["29 03:00 +0200", "29 04:00 +0200"]),
        (
            "0 * * * *",
            "2026-10-24T23:30",
            ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100"],
        ),
    ],
    ids=["a skipped hour", "a doubled hour", "hourly, skipped", "hourly, doubled"],
)
def test_a_firing_follows_the_clocks(cron: str, start: str, expected: list[str]) -> None:
    assert firings(cron, start, len(expected)) == expected


@pytest.mark.parametrize("cron", ["30 2 * * *", "15,45 1-3 * * *", "*/20 * * * *", "0 3 * * SUN"])
def test_a_next_firing_is_never_in_the_past(cron: str) -> None:
    timetable, moment = Timetable(cron, BERLIN), datetime(2026, 10, 24, 22, tzinfo=UTC)
    for _ in range(60):
        moment += timedelta(minutes=5)
        assert timetable.after(moment) > moment


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 * * * *", "15,45 1-3 * * *"])
def test_the_latest_of_missed_firings_is_the_last_that_was_due(cron: str) -> None:
    timetable, start = Timetable(cron, BERLIN), datetime(2026, 10, 20, tzinfo=UTC)
    every = timetable.upcoming(timetable.after(start), 500)
    for earlier, later in pairwise(every[10:]):
        assert timetable.latest(every[0], earlier) == earlier
        assert timetable.latest(every[0], later - timedelta(seconds=1)) == earlier


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "* * * * * *",
        "@daily",
        "60 * * * *",
        "0 0 31 2 *",
        "x * * * *",
        "٠ * * * *",
        "*/0 * * * *",
    ],
)
def test_an_expression_that_fires_at_no_time_of_cron_is_refused(cron: str) -> None:
    assert wrong_with_cron(cron)


@pytest.mark.parametrize("cron", ["0 9 * * MON-FRI", "*/5 * * * *", "0 0 29 2 *", "0 0 L * *", "0 0 * * 1#2"])
def test_an_expression_of_five_fields_is_taken(cron: str) -> None:
    assert wrong_with_cron(cron) is None
