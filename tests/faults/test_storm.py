"""A small storm of a fixed seed; `make faults` is the large one."""

from __future__ import annotations

from tests.faults.process import SERVER_POINTS
from tests.faults.storm import storm

KINDS = (
    "refused",
    "commit lost, applied",
    "commit lost, not applied",
    "connections reset",
    "lost notify",
    "postgres crash",
    "disk full",
    "client vanished",
)
POINTS = ("between_effect_and_record", "inside_finish", "inside_wait", "after_resume", *SERVER_POINTS)


async def test_all_invariants_hold_in_a_small_storm() -> None:
    report = await storm(1, 40, kinds=KINDS, times=1, points=POINTS, poison=False)
    hit = {kind for kind, count in report.hits.items() if count}
    assert hit >= {*KINDS, *(f"kill -9 {point}" for point in POINTS)}
    assert report.runs >= 40
    assert report.waits >= report.resumes > 0
    assert report.violations == []
