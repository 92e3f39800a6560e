"""Schedules, and when they fire: by the rules of cronsim, also in hours that are skipped or doubled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

MAX_SCHEDULES = 100
_MAX_CRON = 255

# For how many schedules it is kept when they fire next. To find it for `0 0 * 2 1#5`, a Monday that is a 29th
# of February, takes 5 to 17 ms: a list of a hundred such would stop all other calls for a second.
_KEPT = 10_000


class Overlap(StrEnum):
    """What becomes of a firing while the run of the one before has not ended, as it is stored."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Timetable:
    """Five fields of cron, by the clocks of a time zone of IANA's."""

    cron: str
    time_zone: str

    def after(self, moment: datetime) -> datetime:
        """The first firing after that moment. Both have a time zone; the result is in UTC.

        Raises LookupError when there is none within fifty years.
        """
        for found in CronSim(self.cron, moment.astimezone(ZoneInfo(self.time_zone))):
            # In the second of a doubled hour cronsim goes on from the first.
            if (firing := found.astimezone(UTC)) > moment:
                return firing
        raise LookupError("it never fires")

    def latest(self, first: datetime, until: datetime) -> datetime:
        """The last firing from `first`, which is one, until that moment."""
        backwards = CronSim(
            self.cron, (until + timedelta(seconds=1)).astimezone(ZoneInfo(self.time_zone)), reverse=True
        )
        firing = max(first, next(backwards, first).astimezone(UTC))
        while (following := self.after(firing)) <= until:
            firing = following
        return firing

    def upcoming(self, first: datetime, number: int) -> tuple[datetime, ...]:
        """So many firings from `first` on."""
        return _upcoming(self, first, number)


@dataclass(frozen=True, slots=True)
class Schedule:
    """`request` is an encoded TriggerRunRequest; `next_at` is None while it is paused."""

    id: UUID
    timetable: Timetable
    request: bytes
    overlap: Overlap
    next_at: datetime | None
    last_at: datetime | None
    last_run_id: UUID | None
    note: str | None
    created_at: datetime
    updated_at: datetime


@lru_cache(_KEPT)
def _upcoming(timetable: Timetable, first: datetime, number: int) -> tuple[datetime, ...]:
    firings = [first]
    while len(firings) < number:
        firings.append(timetable.after(firings[-1]))
    return tuple(firings)


def wrong_with_cron(cron: str) -> str | None:
    """What is wrong with the text, in words that continue a sentence; None when nothing is."""
    if len(cron) > _MAX_CRON:
        return f"has more than {_MAX_CRON} characters"
    # A sixth field would be of seconds.
    if not cron.isascii() or len(cron.split()) != 5:
        return "must be the five fields of cron, such as `0 9 * * MON-FRI`"
    try:
        Timetable(cron, "UTC").after(datetime.now(UTC))
    except CronSimError as error:
        return f"is no cron expression: {error}"
    except (LookupError, ValueError, OverflowError):
        return "never fires"
    return None


@cache
def time_zones() -> frozenset[str]:
    """The names of IANA's time zones."""
    return frozenset(available_timezones()) - {"localtime", "posixrules"}
